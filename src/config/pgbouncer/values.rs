//! Values of PgBouncer's settings as values of ours, and back.

use super::keys::Turn;
use crate::config::units::{duration, show_duration};
use std::time::Duration;

/// The longest time any key of ours takes.
const LONGEST: Duration = Duration::from_secs(86_400);

/// A value of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ours {
    /// As text.
    Text(String),
    /// A number or a switch, written without quotes.
    Bare(String),
    /// A list.
    List(Vec<String>),
    /// The key is left out.
    LeftOut,
}

/// Turns a value; the error says what is wrong with it.
pub fn turned(turn: Turn, value: &str) -> Result<Ours, String> {
    let number = || value.parse::<u64>().map_err(|_| format!("{value:?} is no number"));
    let seconds = || match value.parse::<f64>() {
        Ok(seconds) if seconds.is_finite() && seconds >= 0.0 => Ok(Duration::from_secs_f64(seconds.min(1e9))),
        Ok(_) | Err(_) => Err(format!("{value:?} is no number of seconds")),
    };
    let time = |time: Duration| Ours::Text(show_duration(time.min(LONGEST)));
    Ok(match turn {
        Turn::Word => Ours::Text(value.to_owned()),
        Turn::Number => Ours::Bare(number()?.to_string()),
        Turn::Limit => match number()? {
            0 => Ours::LeftOut,
            limit => Ours::Bare(limit.to_string()),
        },
        Turn::Seconds => time(seconds()?),
        Turn::SecondsOrNever => match seconds()? {
            Duration::ZERO => time(LONGEST),
            seconds => time(seconds),
        },
        Turn::SecondsOrDefault => match seconds()? {
            Duration::ZERO => Ours::LeftOut,
            seconds => time(seconds),
        },
        Turn::Milliseconds => time(Duration::from_millis(number()?)),
        Turn::Switch => Ours::Bare((number()? != 0).to_string()),
        Turn::Names => Ours::List(names(value)),
    })
}

/// Names between commas; PgBouncer allows spaces around them.
pub fn names(value: &str) -> Vec<String> {
    value.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Our value in force (as [`effective`](crate::config::Config::effective) writes it) in PgBouncer's
/// unit.
pub fn shown(turn: Turn, ours: &str) -> String {
    let time = |unit: fn(Duration) -> String| match ours {
        "default" => "0".to_owned(),
        ours => duration(ours).map_or_else(|| ours.to_owned(), unit),
    };
    match turn {
        Turn::Word | Turn::Names | Turn::Number => ours.to_owned(),
        Turn::Limit => if ours == "unlimited" { "0" } else { ours }.to_owned(),
        Turn::Seconds | Turn::SecondsOrNever | Turn::SecondsOrDefault => {
            time(|time| time.as_secs_f64().to_string())
        }
        Turn::Milliseconds => time(|time| time.as_millis().to_string()),
        Turn::Switch => if ours == "true" { "1" } else { "0" }.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown_ours(turn: Turn, theirs: &str) -> Option<String> {
        match turned(turn, theirs).unwrap() {
            Ours::Text(text) => Some(format!("{text:?}")),
            Ours::Bare(text) => Some(text),
            Ours::List(texts) => Some(format!("{texts:?}")),
            Ours::LeftOut => None,
        }
    }

    #[test]
    fn values_turn_into_ours_and_back() {
        #[track_caller]
        fn check(turn: Turn, theirs: &str, ours: Option<&str>) {
            assert_eq!(shown_ours(turn, theirs).as_deref(), ours, "{turn:?} {theirs}");
        }
        check(Turn::Seconds, "600", Some("\"10m\""));
        check(Turn::Seconds, "0.5", Some("\"500ms\""));
        check(Turn::Seconds, "0", Some("\"0s\""));
        check(Turn::Seconds, "172800", Some("\"24h\""));
        check(Turn::SecondsOrNever, "0", Some("\"24h\""));
        check(Turn::SecondsOrDefault, "0", None);
        check(Turn::Milliseconds, "12345", Some("\"12345ms\""));
        check(Turn::Limit, "0", None);
        check(Turn::Limit, "30", Some("30"));
        check(Turn::Switch, "1", Some("true"));
        check(Turn::Names, " a , b,", Some("[\"a\", \"b\"]"));
        assert_eq!(turned(Turn::Number, "x"), Err("\"x\" is no number".to_owned()));
        assert_eq!(turned(Turn::Seconds, "-1"), Err("\"-1\" is no number of seconds".to_owned()));
        assert_eq!(shown(Turn::Seconds, "10m"), "600");
        assert_eq!(shown(Turn::Seconds, "50ms"), "0.05");
        assert_eq!(shown(Turn::Limit, "unlimited"), "0");
        assert_eq!(shown(Turn::SecondsOrDefault, "default"), "0");
        assert_eq!(shown(Turn::Switch, "true"), "1");
    }
}
