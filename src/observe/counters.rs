//! What is counted on the way of statements.

use std::sync::atomic::{AtomicU64, Ordering};

/// Adds one to a counter.
pub fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the process started, shared by all threads. None of them stands on the way of
        /// a single statement.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
        }

        impl Counters {
            /// Names and values, in the order in which they are declared.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

counters! {
    /// Connections accepted, cancel requests included.
    connections_accepted,
    /// Log-ins refused for a wrong password, an unknown role and the like.
    logins_failed,
    /// Log-ins refused because a limit of clients was reached.
    clients_refused,
    /// Clients welcomed.
    clients_accepted,
    /// Clients that have left or were sent away.
    clients_left,
    /// Cancel requests passed on.
    cancels_forwarded,
    /// Times a client's statement or log-in was held because there was no writer.
    holds,
    /// Sessions that went on with another link, unseen by their clients.
    sessions_moved,
    /// Sessions ended with 57P01 because their state could not move.
    sessions_ended,
    /// Transactions refused with 40001 after their server was lost.
    transactions_aborted,
    /// Sessions ended with 08007: a statement was in flight when its server was lost.
    outcomes_unknown,
    /// Statements and log-ins refused with 57P03.
    statements_refused,
    /// Links on which settings had to be made, or that had to be cleaned, before a statement.
    links_prepared,
    /// Times a server was asked what a session has left on its link.
    links_probed,
    /// Times a client was warned that what it has made does not outlive its transaction.
    states_given_up,
    /// Times a client was reported that was silent while something of its held a connection.
    pins_reported,
    /// Commands of ours answered.
    commands_answered,
    /// Times the cloud was made the writer because the local server was gone.
    failovers,
}
