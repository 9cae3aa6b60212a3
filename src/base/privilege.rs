//! What a role may do on the console.

/// What a role may do on the console, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// Look at the mirrors.
    Ordinary,
    /// Look at everything (`auth.stats_users`).
    Stats,
    /// Look and change (`auth.admin_users`, or our own uid on the Unix socket).
    Admin,
}
