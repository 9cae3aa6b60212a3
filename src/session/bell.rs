//! Knowing that a socket is still empty without asking the runtime.
//!
//! One task waits for two sockets. It is told that it was woken, not by which: asking the runtime about both each
//! time costs more than all the rest of a short statement. Each socket wakes the task through a bell of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// The bell of one socket's reading side.
///
/// A socket keeps one waker. Whoever polls it without its bell has to [`Bell::forget`] it, or what comes then
/// rings nowhere.
#[derive(Debug, Default)]
pub(super) struct Bell {
    hung: Option<Hung>,
    /// The socket was empty, and will ring.
    is_awaited: bool,
}

#[derive(Debug)]
struct Hung {
    clapper: Arc<Clapper>,
    /// The same, as the socket takes it.
    waker: Waker,
}

#[derive(Debug)]
struct Clapper {
    has_rung: AtomicBool,
    task: Waker,
}

impl Wake for Clapper {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.has_rung.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

impl Bell {
    /// Polls the socket by `read`, unless it was empty and has not rung since.
    #[inline]
    pub fn poll<T>(&mut self, cx: &Context<'_>, read: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if self.is_silent(cx) { Poll::Pending } else { self.ask(cx, read) }
    }

    #[inline]
    fn is_silent(&self, cx: &Context<'_>) -> bool {
        self.is_awaited
            && self.hung.as_ref().is_some_and(|hung| {
                !hung.clapper.has_rung.load(Ordering::Acquire) && hung.clapper.task.will_wake(cx.waker())
            })
    }

    fn ask<T>(&mut self, cx: &Context<'_>, read: impl FnOnce(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        let hung = match &mut self.hung {
            Some(hung) if hung.clapper.task.will_wake(cx.waker()) => hung,
            hung => hung.insert(Hung::new(cx.waker())),
        };
        // Before the socket is looked at: what comes behind the look rings.
        hung.clapper.has_rung.store(false, Ordering::Release);
        let read = read(&mut Context::from_waker(&hung.waker));
        self.is_awaited = read.is_pending();
        read
    }

    /// It is another socket's now, or the socket has another waker: the next poll asks it.
    pub fn forget(&mut self) {
        self.is_awaited = false;
    }
}

impl Hung {
    fn new(task: &Waker) -> Self {
        let clapper = Arc::new(Clapper { has_rung: AtomicBool::new(false), task: task.clone() });
        Self { waker: Waker::from(clapper.clone()), clapper }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    /// A task that counts how often it was woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A socket that keeps one waker, as tokio's do.
    #[derive(Default)]
    struct Socket {
        bytes: Mutex<usize>,
        waker: Mutex<Option<Waker>>,
        polls: AtomicUsize,
    }

    impl Socket {
        fn poll_read(&self, cx: &mut Context<'_>) -> Poll<usize> {
            self.polls.fetch_add(1, Ordering::Relaxed);
            match std::mem::take(&mut *self.bytes.lock().unwrap()) {
                0 => {
                    *self.waker.lock().unwrap() = Some(cx.waker().clone());
                    Poll::Pending
                }
                n => Poll::Ready(n),
            }
        }

        fn bring(&self, n: usize) {
            *self.bytes.lock().unwrap() += n;
            if let Some(waker) = self.waker.lock().unwrap().take() {
                waker.wake();
            }
        }

        fn polls(&self) -> usize {
            self.polls.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn an_empty_socket_is_asked_once_and_again_when_it_has_rung() {
        let (task, socket) = (Arc::new(Task::default()), Socket::default());
        let waker = Waker::from(task.clone());
        let cx = Context::from_waker(&waker);
        let mut bell = Bell::default();
        for _ in 0..3 {
            assert_eq!(bell.poll(&cx, |cx| socket.poll_read(cx)), Poll::Pending);
        }
        assert_eq!(socket.polls(), 1);
        for n in 1..10 {
            socket.bring(n);
            assert_eq!(task.0.load(Ordering::Relaxed), n, "the task was woken");
            assert_eq!(bell.poll(&cx, |cx| socket.poll_read(cx)), Poll::Ready(n));
            assert_eq!(bell.poll(&cx, |cx| socket.poll_read(cx)), Poll::Pending);
            assert_eq!(bell.poll(&cx, |cx| socket.poll_read(cx)), Poll::Pending);
            assert_eq!(socket.polls(), 1 + 2 * n);
        }
    }

    #[test]
    fn who_polls_under_another_task_wakes_that_one() {
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let socket = Socket::default();
        let mut bell = Bell::default();
        for task in [&first, &second] {
            let waker = Waker::from(task.clone());
            assert_eq!(bell.poll(&Context::from_waker(&waker), |cx| socket.poll_read(cx)), Poll::Pending);
        }
        socket.bring(1);
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn a_bell_that_was_forgotten_asks() {
        let (task, socket) = (Arc::new(Task::default()), Socket::default());
        let waker = Waker::from(task);
        let cx = Context::from_waker(&waker);
        let mut bell = Bell::default();
        assert!(bell.poll(&cx, |cx| socket.poll_read(cx)).is_pending());
        // Somebody else looks, finds it empty, and leaves a waker of its own.
        assert!(socket.poll_read(&mut Context::from_waker(Waker::noop())).is_pending());
        bell.forget();
        socket.bring(5);
        assert_eq!(bell.poll(&cx, |cx| socket.poll_read(cx)), Poll::Ready(5));
    }
}
