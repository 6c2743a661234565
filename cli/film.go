package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"banyan"
	"banyan/internal/film"
)

// filmCommand is the work of the demo: not meant to be typed, but it may be.
func (a *app) filmCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:    "film",
		Short:  "Render the frames of the demo's film, and join them",
		Hidden: true,
		Args:   exactly(),
		RunE:   func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.filmFrameCommand(), a.filmJoinCommand())
	return cmd
}

func (a *app) filmFrameCommand() *cobra.Command {
	var f film.Frame
	var out string
	cmd := &cobra.Command{
		Use:   "frame --frame I --of N",
		Short: "Render one frame into a PNG file",
		Args:  exactly(),
		RunE: func(_ *cobra.Command, _ []string) error {
			if err := f.Validate(); err != nil {
				return err
			}
			img := film.Render(f)
			return writeFile(out, func(w *os.File) error { return film.Encode(w, f, img) })
		},
	}
	fs := cmd.Flags()
	fs.IntVar(&f.Number, "frame", 1, "the `NUMBER` of the frame, from 1")
	fs.IntVar(&f.Count, "of", filmFrames, "frames in the film")
	fs.IntVar(&f.Width, "width", filmWidth, "width in pixels")
	fs.IntVar(&f.Height, "height", filmHeight, "height in pixels")
	fs.IntVar(&f.Samples, "samples", 4, "rays through a pixel")
	fs.StringVar(&out, "out", "frame.png", "write this `FILE`")
	return cmd
}

// The film of the demo: about half a second of one core for a frame.
const (
	filmFrames    = 120
	filmWidth     = 480
	filmHeight    = 270
	filmPerSecond = 24
)

func (a *app) filmJoinCommand() *cobra.Command {
	var out string
	var perSecond int
	cmd := &cobra.Command{
		Use:               "join DIR",
		Short:             "Join the frames in a directory to one film, if each is there once",
		Args:              exactly("DIR"),
		ValidArgsFunction: arguments(dirs),
		RunE: func(_ *cobra.Command, args []string) error {
			paths, err := filepath.Glob(filepath.Join(args[0], "*.png"))
			if err != nil {
				return err
			}
			paths = slices.DeleteFunc(paths, func(p string) bool { return filepath.Clean(p) == filepath.Clean(out) })
			if len(paths) == 0 {
				return banyan.Errorf(banyan.NotFound, "there are no PNG files in %s: render frames into it first", args[0])
			}
			var sum film.Summary
			err = writeFile(out, func(w *os.File) (err error) {
				sum, err = film.Join(w, paths, perSecond)
				return err
			})
			if err == nil {
				_, err = fmt.Fprintf(a.Out, "%s: %d frames of %d by %d, each there once\n", out, sum.Frames, sum.Width, sum.Height)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "film.png", "write this `FILE`")
	cmd.Flags().IntVar(&perSecond, "fps", filmPerSecond, "frames a second")
	return cmd
}

// writeFile writes a file whole or not at all.
func writeFile(path string, fill func(*os.File) error) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".banyan-*")
	if err != nil {
		return err
	}
	err = errors.Join(fill(tmp), tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name()) // what cannot be removed is only a leftover
	}
	return err
}
