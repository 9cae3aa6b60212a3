//! Waiting for facts instead of sleeping.

use std::fmt::{Debug, Display};
use std::future::Future;
use std::panic::Location;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at first, and at most: a look is often a log-in, which a busy machine does instead of what
/// is waited for.
const PAUSES: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];

/// What was seen instead of the fact. Made by `?` from any error, or from a text.
#[derive(Debug)]
pub struct Instead(String);

impl<E: Display> From<E> for Instead {
    fn from(seen: E) -> Self {
        Instead(seen.to_string())
    }
}

/// Asks `fact` until it is `Ok` and returns its value; panics after `deadline` with the place of
/// the call and what the fact said last. [`that`] turns a value and a predicate into such a fact:
///
/// ```ignore
/// eventually(secs(5), async || that(mirror.count("t").await?, |n| *n == 3)).await;
/// ```
#[track_caller]
pub fn eventually<T, F>(deadline: Duration, mut fact: F) -> impl Future<Output = T>
where
    F: AsyncFnMut() -> Result<T, Instead>,
{
    let caller = Location::caller();
    async move {
        let began = Instant::now();
        let end = began + deadline;
        let mut seen = "nothing yet".to_owned();
        loop {
            match tokio::time::timeout_at(end, fact()).await {
                Ok(Ok(value)) => return value,
                Ok(Err(instead)) => seen = instead.0,
                Err(_) => panic!("{caller}: no answer within {deadline:?}; before that: {seen}"),
            }
            let pause = (began.elapsed() / 10).clamp(PAUSES[0], PAUSES[1]);
            if Instant::now() + pause >= end {
                panic!("{caller}: not within {deadline:?}; instead: {seen}");
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// The same for a fact that is only true or false; `what` says in words what was hoped for.
#[track_caller]
pub fn eventually_true(
    deadline: Duration,
    what: &str,
    mut fact: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let hoped = format!("it is not true that {what}");
    eventually(deadline, async move || if fact() { Ok(()) } else { Err(hoped.as_str().into()) })
}

/// `value` when `is_so` holds for it, else the value in words, for [`eventually`] to show.
pub fn that<T: Debug>(value: T, is_so: impl FnOnce(&T) -> bool) -> Result<T, Instead> {
    if is_so(&value) { Ok(value) } else { Err(format!("{value:?}").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_fact_that_becomes_true_is_returned() {
        let mut n = 0;
        let seen: u32 = eventually(Duration::from_secs(1), async || {
            n += 1;
            that(n, |n| *n == 7)
        })
        .await;
        assert_eq!(seen, 7);
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 1s; instead: 41")]
    async fn a_fact_that_stays_false_is_shown() {
        eventually(Duration::from_secs(1), async || that(41, |n| *n == 42)).await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "no answer within 1s; before that: nothing yet")]
    async fn a_fact_that_hangs_ends_too() {
        eventually(Duration::from_secs(1), async || std::future::pending::<Result<(), Instead>>().await)
            .await;
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "it is not true that pigs fly")]
    async fn a_truth_that_stays_false_is_named() {
        eventually_true(Duration::from_secs(1), "pigs fly", || false).await;
    }
}
