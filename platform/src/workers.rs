//! Work beside a thread that must not be held up: jobs that read or write much, done one after the other by somebody else.
//!
//! Usually each worker is a thread of its own. In a simulation nothing happens until it says so: then one job is done, on the spot.

use crate::clock::pause;
use crate::tasks::{self, Thread};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Something to do, and afterwards to rest from: so a worker keeps to a rate.
pub type Job = Box<dyn FnOnce() -> Duration + Send>;

/// Where workers come from.
pub trait Workers: Send + Sync + fmt::Debug {
    /// A worker of its own for one kind of jobs.
    fn hire(&self, name: &'static str) -> io::Result<Worker>;
}

/// A source of workers shared by several owners.
pub type SharedWorkers = Arc<dyn Workers>;

/// Does jobs in the order in which they are given. When this is dropped, those that were given are still done.
#[derive(Debug)]
pub struct Worker(Kind);

enum Kind {
    Thread { jobs: Sender<Job>, thread: Thread },
    ByHand { number: usize, crew: ByHand },
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Thread { thread, .. } => write!(f, "thread `{}`", thread.name()),
            Kind::ByHand { number, .. } => write!(f, "by hand, number {number}"),
        }
    }
}

impl Worker {
    /// Hands a job over, and returns at once.
    pub fn give(&self, job: Job) {
        match &self.0 {
            // The thread ends only with this handle.
            Kind::Thread { jobs, .. } => drop(jobs.send(job)),
            Kind::ByHand { number, crew } => crew.queues()[*number].push_back(job),
        }
    }

    /// Waits until all that was given is done.
    pub fn finish(self) {
        match self.0 {
            Kind::Thread { jobs, thread } => {
                drop(jobs);
                // A panic there was reported by the thread itself.
                let _ = thread.join();
            }
            Kind::ByHand { number, crew } => while crew.work(number) {},
        }
    }
}

/// Each worker is a thread.
#[derive(Clone, Copy, Debug, Default)]
pub struct Threads;

impl Workers for Threads {
    fn hire(&self, name: &'static str) -> io::Result<Worker> {
        let (jobs, todo) = channel::<Job>();
        let thread = tasks::thread(name, move || {
            while let Ok(job) = todo.recv() {
                let rest = job();
                if !rest.is_zero() {
                    pause(rest);
                }
            }
        })?;
        Ok(Worker(Kind::Thread { jobs, thread }))
    }
}

/// Workers that wait to be told. Clones are the same.
#[derive(Clone, Default)]
pub struct ByHand {
    queues: Arc<Mutex<Vec<VecDeque<Job>>>>,
}

impl ByHand {
    /// Nobody yet.
    pub fn new() -> ByHand {
        ByHand::default()
    }

    fn queues(&self) -> MutexGuard<'_, Vec<VecDeque<Job>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Workers that have something to do.
    pub fn busy(&self) -> Vec<usize> {
        self.queues().iter().enumerate().filter(|(_, jobs)| !jobs.is_empty()).map(|(number, _)| number).collect()
    }

    /// Has one worker do its oldest job; `false` if it has none.
    pub fn work(&self, worker: usize) -> bool {
        let job = self.queues().get_mut(worker).and_then(VecDeque::pop_front);
        // Without the lock: a job may give another one.
        job.map(|job| job()).is_some()
    }
}

impl fmt::Debug for ByHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.queues().iter().map(VecDeque::len)).finish()
    }
}

impl Workers for ByHand {
    fn hire(&self, _: &'static str) -> io::Result<Worker> {
        let mut queues = self.queues();
        queues.push(VecDeque::new());
        Ok(Worker(Kind::ByHand { number: queues.len() - 1, crew: self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn noted(place: &Arc<Mutex<Vec<u32>>>, number: u32) -> Job {
        let place = place.clone();
        Box::new(move || {
            place.lock().unwrap().push(number);
            Duration::ZERO
        })
    }

    #[test]
    fn a_worker_does_everything_in_order_before_it_ends() {
        let by_hand = ByHand::new();
        for workers in [&Threads as &dyn Workers, &by_hand] {
            let done = Arc::<Mutex<Vec<u32>>>::default();
            let worker = workers.hire("worker").unwrap();
            (0..20).for_each(|number| worker.give(noted(&done, number)));
            worker.finish();
            assert_eq!(*done.lock().unwrap(), (0..20).collect::<Vec<_>>());
        }
    }

    #[test]
    fn by_hand_nothing_happens_by_itself() {
        let (crew, done) = (ByHand::new(), Arc::<Mutex<Vec<u32>>>::default());
        let (one, other) = (crew.hire("one").unwrap(), crew.hire("other").unwrap());
        one.give(noted(&done, 1));
        one.give(noted(&done, 2));
        other.give(noted(&done, 3));
        assert_eq!((crew.busy(), done.lock().unwrap().len()), (vec![0, 1], 0));
        assert!(crew.work(1) && !crew.work(1) && crew.work(0));
        assert_eq!((crew.busy(), &done.lock().unwrap()[..]), (vec![0], &[3, 1][..]));
    }
}
