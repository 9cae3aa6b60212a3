//! What the pooled modes have to say to clients.

use crate::base::sqlstate;
use crate::wire::message::{Complaint, Severity};

/// No link was free in time.
pub fn query_wait_timeout() -> Complaint {
    Complaint::fatal(sqlstate::TOO_MANY_CONNECTIONS, "query_wait_timeout")
        .detail("No server connection was free in time. The statement was not executed.")
}

/// Statement mode has no transactions.
pub fn no_transaction_blocks() -> Complaint {
    Complaint::fatal(sqlstate::NOT_SUPPORTED, "transaction blocks not allowed in statement pooling mode")
}

/// A name of a statement or portal without an end.
pub const ENDLESS_NAME: &str = "a name is too long";

/// The client has sent a Sync into COPY data that the server had refused, or had not.
pub const LOST_IN_COPY: &str = "cannot follow a Sync in the middle of COPY data that the server has refused";

/// In transaction mode something is given up with the transaction.
pub fn given_up(what: &str) -> Complaint {
    Complaint::new(
        Severity::Warning,
        sqlstate::WARNING,
        format!("{what} will not survive this transaction in transaction pooling mode"),
    )
    .hint("Use pool.mode = \"auto\" or \"session\" for clients that need it.")
}
