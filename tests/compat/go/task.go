package main

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Task is work beside the scenario. What fails in it fails the scenario where it looks at the task.
type Task struct {
	stopping atomic.Bool
	ended    chan struct{}
	failure  any
}

func newTask(work func(*Task)) *Task {
	task := &Task{ended: make(chan struct{})}
	go func() {
		defer close(task.ended)
		defer func() { task.failure = recover() }()
		work(task)
	}()
	return task
}

func (task *Task) over() bool { return task.stopping.Load() }

// look fails the scenario if the task failed.
func (task *Task) look() {
	select {
	case <-task.ended:
		if task.failure != nil {
			panic(task.failure)
		}
	default:
	}
}

// end waits for the task, which must end by itself.
func (task *Task) end() {
	select {
	case <-task.ended:
		task.look()
	case <-time.After(30 * time.Second):
		panic(failed{"a task did not end within 30 s"})
	}
}

func (task *Task) stop() {
	task.stopping.Store(true)
	task.end()
}

// waitUntil looks often until it holds; fails when the time is over or one of the tasks failed.
func waitUntil(holds func() bool, what func() string, in time.Duration, tasks ...*Task) {
	for waiting := newDeadline(in); !holds(); time.Sleep(look) {
		for _, task := range tasks {
			task.look()
		}
		if waiting.over() {
			panic(failed{fmt.Sprintf("not within %v: %s", in, what())})
		}
	}
}
