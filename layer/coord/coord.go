// Package coord is the layer of locks, semaphores and elections.
//
// A claim is a row in the shard of its lock, attached to a lease; the leader
// of the shard decides who gets what, in order, and commits it under its term.
// Core is that decision and nothing else: no clock, no goroutine. Service
// drives a Core for each shard that this node leads.
//
// Keeping a lease alive writes nothing. The leader holds the deadlines in
// memory, and a new leader gives every lease its whole time again. So a lease
// ends late, never early, and its holder, who counts from when it sent the
// last beat that was answered, gives up before the leader does.
package coord
