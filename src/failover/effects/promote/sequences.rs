//! Where a sequence has to go on after a promotion. Pure.

use std::time::Duration;

/// Values a source may have handed out since its sequences were last polled, at least.
const GAP_VALUES: i128 = 1000;
/// And at least as many as it handed out in this time at its fastest.
const GAP_TIME: Duration = Duration::from_secs(2);

/// What is known of one sequence.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sequence {
    pub(super) increment: i64,
    pub(super) start: i64,
    pub(super) min: i64,
    pub(super) max: i64,
    pub(super) cycles: bool,
    /// The last poll of the source: `last_value` and `is_called`.
    pub(super) polled: Option<(i64, bool)>,
    /// How far it moved in a second on the source.
    pub(super) per_second: f64,
    /// The last value handed out here, if any.
    pub(super) here: Option<i64>,
    /// The furthest value in a column that takes its values from it.
    pub(super) top: Option<i128>,
}

/// The last value to count as handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Position {
    /// Past everything the source may have handed out.
    Safe(i64),
    /// So near its end that the whole gap does not fit: half of what is left is kept for use.
    NearEnd(i64),
}

impl Position {
    pub(super) fn value(self) -> i64 {
        match self {
            Position::Safe(value) | Position::NearEnd(value) => value,
        }
    }
}

/// The furthest of last poll, owning column and present value, and the gap, rounded up so that the
/// sequence keeps its phase (one that hands out odd numbers goes on with odd numbers).
///
/// Descending sequences are reckoned in the mirror: everything is negated and they ascend.
pub(super) fn position(s: &Sequence) -> Position {
    let direction = if s.increment < 0 { -1 } else { 1 };
    let up = |value: i128| value * direction;
    let step = i128::from(s.increment).abs().max(1);
    let (first, last) = match direction {
        1 => (i128::from(s.min), i128::from(s.max)),
        _ => (-i128::from(s.max), -i128::from(s.min)),
    };
    let polled = s.polled.map(|(value, is_called)| up(value.into()) - if is_called { 0 } else { step });
    let here = s.here.map_or(up(s.start.into()) - step, |value| up(value.into()));
    let anchor = polled.unwrap_or(here);
    // A sequence that cycles reuses values anyway, and its column's top says where it turned.
    let furthest = match s.top {
        _ if s.cycles => anchor,
        Some(top) => anchor.max(here).max(up(top).clamp(first - step, last)),
        None => anchor.max(here),
    };
    let rate = (s.per_second.abs() * GAP_TIME.as_secs_f64()).ceil();
    // A cast of a float saturates, and turns NaN into 0.
    let gap = (GAP_VALUES * step).max(i128::from(rate as i64));
    let steps_to = |distance: i128| distance.div_euclid(step) + i128::from(distance.rem_euclid(step) != 0);
    let wanted = anchor + step * steps_to(furthest - anchor + gap);
    let (value, is_safe) = if wanted <= last {
        (wanted, true)
    } else if s.cycles {
        (first + (wanted - last - 1).rem_euclid(last - first + 1), true)
    } else {
        let reached = anchor + step * steps_to(furthest - anchor);
        let steps_left = ((last - reached) / step).max(0);
        (reached + step * (steps_left / 2), false)
    };
    let value = up(value.clamp(first, last));
    let value = i64::try_from(value).expect("between the bounds of a bigint sequence");
    if is_safe { Position::Safe(value) } else { Position::NearEnd(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ascending() -> Sequence {
        Sequence {
            increment: 1,
            start: 1,
            min: 1,
            max: i64::MAX,
            cycles: false,
            polled: None,
            per_second: 0.0,
            here: None,
            top: None,
        }
    }

    fn descending() -> Sequence {
        Sequence { increment: -1, start: -1, min: i64::MIN, max: -1, ..ascending() }
    }

    #[test]
    fn a_sequence_goes_on_past_what_the_source_may_have_handed_out() {
        use Position::{NearEnd, Safe};
        let check = |s: Sequence, expected: Position| assert_eq!(position(&s), expected, "{s:?}");
        let polled = |value| Some((value, true));
        check(ascending(), Safe(1000));
        check(Sequence { polled: polled(50), ..ascending() }, Safe(1050));
        check(Sequence { polled: Some((1, false)), ..ascending() }, Safe(1000));
        check(Sequence { polled: polled(50), top: Some(70), ..ascending() }, Safe(1070));
        check(Sequence { polled: polled(50), here: Some(60), ..ascending() }, Safe(1060));
        check(Sequence { polled: polled(50), per_second: 5000.2, ..ascending() }, Safe(10_051));
        check(Sequence { polled: polled(50), per_second: f64::NAN, ..ascending() }, Safe(1050));
        // The phase stays: 7, 17, 27 … although a row has 23.
        check(Sequence { increment: 10, polled: polled(7), top: Some(23), ..ascending() }, Safe(10_027));
        check(Sequence { polled: polled(-50), ..descending() }, Safe(-1050));
        check(Sequence { polled: polled(-50), top: Some(-70), ..descending() }, Safe(-1070));
        check(Sequence { polled: polled(-50), top: Some(-3), ..descending() }, Safe(-1050));
        // smallserial near its end.
        check(Sequence { max: 32_767, polled: polled(32_000), ..ascending() }, NearEnd(32_383));
        check(Sequence { max: 32_767, polled: polled(32_767), ..ascending() }, NearEnd(32_767));
        check(Sequence { max: 5, polled: Some((1, false)), ..ascending() }, NearEnd(2));
        // A row far beyond the sequence's end is no reason to leave its bounds.
        check(Sequence { max: 100, polled: polled(10), top: Some(1 << 70), ..ascending() }, NearEnd(100));
        // Cycles: goes round, and a row at the top says nothing.
        let ring = Sequence { cycles: true, max: 5000, ..ascending() };
        check(Sequence { polled: polled(10), top: Some(5000), ..ring.clone() }, Safe(1010));
        check(Sequence { polled: polled(4500), ..ring.clone() }, Safe(500));
        check(Sequence { polled: polled(2), max: 3, ..ring }, Safe(3));
        check(Sequence { polled: polled(i64::MAX - 1), ..ascending() }, NearEnd(i64::MAX - 1));
        check(Sequence { polled: polled(i64::MIN), ..descending() }, NearEnd(i64::MIN));
    }

    proptest! {
        #[test]
        fn a_position_stays_in_its_bounds_and_never_goes_back(
            increment in prop_oneof![-100_000i64..=-1, 1i64..=100_000, Just(i64::MIN), Just(i64::MAX)],
            bounds in any::<(i64, i64)>(),
            polled in proptest::option::of((any::<i64>(), any::<bool>())),
            here in proptest::option::of(any::<i64>()),
            top in proptest::option::of(any::<i64>()),
            per_second in any::<f64>(),
            cycles in any::<bool>(),
        ) {
            let (min, max) = (bounds.0.min(bounds.1), bounds.0.max(bounds.1));
            let inside = |value: i64| value.clamp(min, max);
            let s = Sequence {
                increment, min, max, cycles, per_second,
                start: inside(bounds.0),
                polled: polled.map(|(value, is_called)| (inside(value), is_called)),
                here: here.map(inside),
                top: top.map(i128::from),
            };
            let value = position(&s).value();
            prop_assert!((min..=max).contains(&value));
            if !cycles {
                let handed_out = s.polled.filter(|(_, is_called)| *is_called).map(|(value, _)| value);
                for known in s.here.into_iter().chain(handed_out) {
                    let is_past = if increment > 0 { value >= known } else { value <= known };
                    prop_assert!(is_past, "{} after {}", value, known);
                }
            }
        }
    }
}
