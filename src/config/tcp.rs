//! `[tcp]`: when a peer that does not answer is given up.

use super::reader::Section;
use std::time::Duration;

/// `[tcp]`: PgBouncer's `tcp_keepalive`, `tcp_keepidle`, `tcp_keepintvl`, `tcp_keepcnt` and
/// `tcp_user_timeout`, for connections to servers and of clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// `keepalive`: silent peers are asked whether they are still there.
    pub keepalive: bool,
    /// `keepidle`: after this time of silence; unset, 10 s for servers and 60 s for clients.
    pub keepidle: Option<Duration>,
    /// `keepintvl`: between two questions.
    pub keepintvl: Duration,
    /// `keepcnt`: how many stay without an answer before the connection is given up.
    pub keepcnt: u32,
    /// `user_timeout`: a connection is given up when bytes are not taken for this long; unset, 2 minutes for
    /// servers and 5 for clients; zero leaves it to the system.
    pub user_timeout: Option<Duration>,
}

impl Default for Tcp {
    fn default() -> Self {
        Self {
            keepalive: true,
            keepidle: None,
            keepintvl: Duration::from_secs(10),
            keepcnt: 3,
            user_timeout: None,
        }
    }
}

/// What is set on one socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Idle time, interval and count.
    pub keepalive: Option<(Duration, Duration, u32)>,
    /// `TCP_USER_TIMEOUT`.
    pub user_timeout: Option<Duration>,
}

impl Tcp {
    /// For connections to servers: a dead one keeps statements from moving on. One that waits for a lock takes
    /// nothing either.
    pub fn towards_servers(&self) -> Tuning {
        self.tuning(Duration::from_secs(10), Duration::from_secs(120))
    }

    /// For connections of clients, of which there may be many and idle.
    pub fn towards_clients(&self) -> Tuning {
        self.tuning(Duration::from_secs(60), Duration::from_secs(300))
    }

    fn tuning(&self, idle: Duration, user_timeout: Duration) -> Tuning {
        let idle = self.keepidle.unwrap_or(idle);
        let user_timeout = self.user_timeout.unwrap_or(user_timeout);
        Tuning {
            keepalive: self.keepalive.then_some((idle, self.keepintvl, self.keepcnt)),
            user_timeout: Some(user_timeout).filter(|timeout| !timeout.is_zero()),
        }
    }
}

/// Reads `[tcp]`.
pub(super) fn read(mut section: Section<'_>) -> Option<Tcp> {
    let standard = Tcp::default();
    let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
    let had = ["keepalive", "keepidle", "keepintvl", "keepcnt", "user_timeout"].map(|key| section.has(key));
    let keepalive = section.boolean("keepalive");
    let keepidle = section.duration("keepidle", second..=hour).map(|found| found.value);
    let keepintvl = section.duration("keepintvl", second..=hour).map(|found| found.value);
    let keepcnt = section.integer("keepcnt", 1..=100).map(|count| count as u32);
    let user_timeout = section.duration("user_timeout", Duration::ZERO..=hour).map(|found| found.value);
    section.finish();
    let found = [
        keepalive.is_some(),
        keepidle.is_some(),
        keepintvl.is_some(),
        keepcnt.is_some(),
        user_timeout.is_some(),
    ];
    (had == found).then(|| Tcp {
        keepalive: keepalive.unwrap_or(standard.keepalive),
        keepidle,
        keepintvl: keepintvl.unwrap_or(standard.keepintvl),
        keepcnt: keepcnt.unwrap_or(standard.keepcnt),
        user_timeout,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_given_up_sooner_than_clients_unless_it_is_said() {
        let tcp = Tcp::default();
        let seconds = Duration::from_secs;
        assert_eq!(tcp.towards_servers().keepalive, Some((seconds(10), seconds(10), 3)));
        assert_eq!(tcp.towards_clients().keepalive, Some((seconds(60), seconds(10), 3)));
        assert_eq!(tcp.towards_servers().user_timeout, Some(seconds(120)));
        assert_eq!(tcp.towards_clients().user_timeout, Some(seconds(300)));
        let said = Tcp { keepidle: Some(seconds(5)), user_timeout: Some(Duration::ZERO), ..tcp };
        assert_eq!(said.towards_clients(), said.towards_servers());
        assert_eq!(said.towards_clients().user_timeout, None);
        let off = Tcp { keepalive: false, ..said };
        assert_eq!(off.towards_clients(), Tuning { keepalive: None, user_timeout: None });
    }
}
