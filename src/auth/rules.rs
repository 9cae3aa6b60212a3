//! Which rule is about a client: pure.

use super::approach::Approach;
use crate::base::sqlstate;
use crate::config::Origin;
use crate::config::hba::{
    AddressPattern, AuthMethod, CertificateName, Connection, DatabasePattern, Rule, UserPattern,
    WantedCertificate,
};
use crate::sys::Peer;
use crate::wire::message::Complaint;
use std::net::IpAddr;

/// One method for everybody. Certificates are shown in TLS only.
pub(super) fn everyone(method: AuthMethod) -> Vec<Rule> {
    let rule = |connection| Rule {
        at: Origin::Nowhere,
        connection,
        // Physical replication has to be named.
        databases: vec![DatabasePattern::All, DatabasePattern::Replication],
        users: vec![UserPattern::All],
        addresses: vec![AddressPattern::All],
        method,
        map: None,
        certificate: match method {
            AuthMethod::Certificate => WantedCertificate::Named,
            _ => WantedCertificate::None,
        },
        name: CertificateName::Common,
    };
    match method {
        AuthMethod::Certificate => vec![rule(Connection::HostSsl)],
        _ => vec![rule(Connection::Local), rule(Connection::Host)],
    }
}

/// What the rules are asked.
pub(super) struct Question<'a> {
    pub approach: &'a Approach,
    pub user: &'a str,
    pub database: &'a str,
    /// Physical replication is in no database.
    pub is_physical: bool,
    /// The roles that the user is a member of, once they are known.
    pub roles: Option<&'a [String]>,
    /// The networks of this machine: address and mask.
    pub networks: &'a (dyn Fn() -> Vec<(IpAddr, IpAddr)> + Sync),
}

/// The rule that decides.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice<'a> {
    Rule(&'a Rule),
    /// No rule is about this client.
    None,
    /// It depends on the roles that the user is a member of.
    NeedsRoles,
}

/// Finds the first rule that fits.
pub(super) fn choose<'a>(rules: &'a [Rule], question: &Question<'_>) -> Choice<'a> {
    for rule in rules {
        if !question.comes_by(rule) {
            continue;
        }
        // As PostgreSQL: the database first, then the role.
        let databases = rule.databases.iter().map(|pattern| question.means_database(pattern));
        let users = rule.users.iter().map(|pattern| question.is_user(pattern));
        match any(databases).and(any(users)) {
            Fit::Yes => return Choice::Rule(rule),
            Fit::No => {}
            Fit::Unknown => return Choice::NeedsRoles,
        }
    }
    Choice::None
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fit {
    Yes,
    No,
    Unknown,
}

impl Fit {
    fn of(fits: bool) -> Self {
        if fits { Fit::Yes } else { Fit::No }
    }

    fn and(self, other: Fit) -> Fit {
        match (self, other) {
            (Fit::No, _) | (_, Fit::No) => Fit::No,
            (Fit::Unknown, _) | (_, Fit::Unknown) => Fit::Unknown,
            (Fit::Yes, Fit::Yes) => Fit::Yes,
        }
    }
}

fn any(fits: impl Iterator<Item = Fit>) -> Fit {
    let mut sum = Fit::No;
    for fit in fits {
        match fit {
            Fit::Yes => return Fit::Yes,
            Fit::No => {}
            Fit::Unknown => sum = Fit::Unknown,
        }
    }
    sum
}

impl Question<'_> {
    fn comes_by(&self, rule: &Rule) -> bool {
        let is_local = matches!(self.approach.peer, Peer::Unix { .. });
        match rule.connection {
            Connection::Local => return is_local,
            Connection::Never => return false,
            Connection::Host | Connection::HostSsl | Connection::HostNoSsl if is_local => return false,
            Connection::Host => {}
            Connection::HostSsl if !self.approach.is_encrypted() => return false,
            Connection::HostNoSsl if self.approach.is_encrypted() => return false,
            Connection::HostSsl | Connection::HostNoSsl => {}
        }
        let ip = match self.approach.peer {
            Peer::Tcp(address) => Some(address.ip().to_canonical()),
            Peer::Unix { .. } | Peer::Unknown => None,
        };
        rule.addresses.iter().any(|pattern| self.comes_from(ip, pattern))
    }

    /// Who hides its address comes from everywhere and from nowhere in particular.
    fn comes_from(&self, ip: Option<IpAddr>, pattern: &AddressPattern) -> bool {
        let within = |ip: IpAddr, networks: &[(IpAddr, IpAddr)]| {
            networks.iter().any(|(address, mask)| AddressPattern::lies_in(ip, *address, *mask))
        };
        match (pattern, ip) {
            (AddressPattern::All, _) => true,
            (_, None) => false,
            (AddressPattern::Network { ip: network, mask }, Some(ip)) => within(ip, &[(*network, *mask)]),
            (AddressPattern::SameHost, Some(ip)) => {
                (self.networks)().iter().any(|(address, _)| *address == ip)
            }
            (AddressPattern::SameNet, Some(ip)) => within(ip, &(self.networks)()),
        }
    }

    fn means_database(&self, pattern: &DatabasePattern) -> Fit {
        if self.is_physical {
            return Fit::of(*pattern == DatabasePattern::Replication);
        }
        match pattern {
            DatabasePattern::All => Fit::Yes,
            DatabasePattern::SameUser => Fit::of(self.user == self.database),
            DatabasePattern::SameRole => self.is_member(self.database),
            DatabasePattern::Replication => Fit::No,
            DatabasePattern::Name(name) => Fit::of(name == self.database),
            DatabasePattern::Matches(pattern) => Fit::of(pattern.regex().is_match(self.database)),
        }
    }

    fn is_user(&self, pattern: &UserPattern) -> Fit {
        match pattern {
            UserPattern::All => Fit::Yes,
            UserPattern::Name(name) => Fit::of(name == self.user),
            UserPattern::MemberOf(role) => self.is_member(role),
            UserPattern::Matches(pattern) => Fit::of(pattern.regex().is_match(self.user)),
        }
    }

    fn is_member(&self, role: &str) -> Fit {
        match self.roles {
            _ if role == self.user => Fit::Yes,
            Some(roles) => Fit::of(roles.iter().any(|known| known == role)),
            None => Fit::Unknown,
        }
    }

    /// What PostgreSQL says where a rule rejects ("ClientAuthentication").
    pub(super) fn rejected(&self) -> Complaint {
        self.told("pg_hba.conf rejects connection for", "pg_hba.conf rejects replication connection for")
    }

    /// What PostgreSQL says where no rule fits.
    pub(super) fn no_entry(&self) -> Complaint {
        self.told("no pg_hba.conf entry for", "no pg_hba.conf entry for replication connection from")
    }

    fn told(&self, ordinary: &str, physical: &str) -> Complaint {
        let host = match self.approach.peer {
            Peer::Tcp(address) => address.ip().to_canonical().to_string(),
            Peer::Unix { .. } => "[local]".to_owned(),
            Peer::Unknown => "???".to_owned(),
        };
        let encryption = if self.approach.is_encrypted() { "SSL encryption" } else { "no encryption" };
        let Question { user, database, .. } = self;
        let text = match self.is_physical {
            true => format!("{physical} host \"{host}\", user \"{user}\", {encryption}"),
            false => {
                format!("{ordinary} host \"{host}\", user \"{user}\", database \"{database}\", {encryption}")
            }
        };
        Complaint::fatal(sqlstate::INVALID_AUTHORIZATION, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::approach::Channel;
    use crate::config::hba::Pattern;

    fn tcp(address: &str) -> Approach {
        Approach::in_clear(Peer::Tcp(format!("{address}:5000").parse().unwrap()))
    }

    fn tls(address: &str) -> Approach {
        Approach { channel: Channel::Tls(Box::default()), ..tcp(address) }
    }

    fn unix() -> Approach {
        Approach::in_clear(Peer::Unix { uid: Some(1) })
    }

    fn rule(connection: Connection, change: impl Fn(&mut Rule)) -> Rule {
        let mut rule = everyone(AuthMethod::Trust).remove(0);
        rule.databases = vec![DatabasePattern::All];
        rule.connection = connection;
        change(&mut rule);
        rule
    }

    fn fits(rule: &Rule, approach: &Approach, user: &str, database: &str, roles: Option<&[String]>) -> Fit {
        let networks = || vec![("10.1.2.3".parse().unwrap(), "255.255.0.0".parse().unwrap())];
        let question = Question { approach, user, database, is_physical: false, roles, networks: &networks };
        match choose(std::slice::from_ref(rule), &question) {
            Choice::Rule(_) => Fit::Yes,
            Choice::None => Fit::No,
            Choice::NeedsRoles => Fit::Unknown,
        }
    }

    #[test]
    fn the_way_in_and_the_address_count() {
        let fit = |rule: &Rule, approach: &Approach| fits(rule, approach, "ann", "shop", None) == Fit::Yes;
        for (connection, expected) in [
            (Connection::Local, [true, false, false]),
            (Connection::Host, [false, true, true]),
            (Connection::HostSsl, [false, false, true]),
            (Connection::HostNoSsl, [false, true, false]),
            (Connection::Never, [false, false, false]),
        ] {
            let rule = rule(connection, |_| {});
            let found = [unix(), tcp("10.1.0.1"), tls("10.1.0.1")].map(|approach| fit(&rule, &approach));
            assert_eq!(found, expected, "{connection:?}");
        }
        let from =
            |pattern: AddressPattern| rule(Connection::Host, |rule| rule.addresses = vec![pattern.clone()]);
        let network = |ip: &str, mask: &str| {
            from(AddressPattern::Network { ip: ip.parse().unwrap(), mask: mask.parse().unwrap() })
        };
        let ten = network("10.0.0.0", "255.0.0.0");
        assert!(fit(&ten, &tcp("10.9.9.9")) && !fit(&ten, &tcp("11.0.0.0")));
        assert!(fit(&ten, &tcp("[::ffff:10.9.9.9]")), "an IPv4 client of a socket for both");
        assert!(!fit(&ten, &tcp("[::1]")) && !fit(&ten, &Approach::in_clear(Peer::Unknown)));
        let six = network("fe80::", "ffff::");
        assert!(fit(&six, &tcp("[fe80::1]")) && !fit(&six, &tcp("[fe90::1]")));
        let same_host = from(AddressPattern::SameHost);
        assert!(fit(&same_host, &tcp("10.1.2.3")) && !fit(&same_host, &tcp("10.1.2.4")));
        let same_net = from(AddressPattern::SameNet);
        assert!(fit(&same_net, &tcp("10.1.2.4")) && !fit(&same_net, &tcp("10.2.2.4")));
    }

    #[test]
    fn names_and_memberships_count() {
        let for_user =
            |pattern: UserPattern| rule(Connection::Host, |rule| rule.users = vec![pattern.clone()]);
        let here = tcp("127.0.0.1");
        let check = |rule: &Rule, roles: Option<&[String]>| fits(rule, &here, "ann", "shop", roles);
        let team = ["team".to_owned()];
        assert_eq!(check(&for_user(UserPattern::Name("ann".to_owned())), None), Fit::Yes);
        assert_eq!(check(&for_user(UserPattern::Name("bob".to_owned())), None), Fit::No);
        let expression = |text| UserPattern::Matches(Pattern::new(text).unwrap());
        assert_eq!(check(&for_user(expression("^a")), None), Fit::Yes);
        assert_eq!(check(&for_user(expression("^b")), None), Fit::No);
        let member = for_user(UserPattern::MemberOf("team".to_owned()));
        assert_eq!(check(&member, None), Fit::Unknown);
        assert_eq!((check(&member, Some(&team)), check(&member, Some(&[]))), (Fit::Yes, Fit::No));
        assert_eq!(check(&for_user(UserPattern::MemberOf("ann".to_owned())), None), Fit::Yes);
        // Nobody is asked about members where the database does not fit.
        let both = rule(Connection::Host, |rule| {
            rule.users = vec![UserPattern::MemberOf("team".to_owned())];
            rule.databases = vec![DatabasePattern::Name("other".to_owned())];
        });
        assert_eq!(check(&both, None), Fit::No);
        for (pattern, expected) in [
            (DatabasePattern::SameUser, Fit::No),
            (DatabasePattern::SameRole, Fit::Unknown),
            (DatabasePattern::Replication, Fit::No),
            (DatabasePattern::Name("shop".to_owned()), Fit::Yes),
            (DatabasePattern::Matches(Pattern::new("^sh.p$").unwrap()), Fit::Yes),
        ] {
            let rule = rule(Connection::Host, |rule| rule.databases = vec![pattern.clone()]);
            assert_eq!(check(&rule, None), expected, "{pattern:?}");
        }
    }

    #[test]
    fn physical_replication_has_to_be_named() {
        let here = tcp("192.0.2.1");
        let networks = Vec::new;
        let question = Question {
            approach: &here,
            user: "ann",
            database: "ann",
            is_physical: true,
            roles: None,
            networks: &networks,
        };
        assert_eq!(choose(&[rule(Connection::Host, |_| {})], &question), Choice::None);
        let named = rule(Connection::Host, |rule| rule.databases = vec![DatabasePattern::Replication]);
        assert_eq!(choose(std::slice::from_ref(&named), &question), Choice::Rule(&named));
        let all = everyone(AuthMethod::Trust);
        assert!(matches!(choose(&all, &question), Choice::Rule(_)), "without rules it is as any other");
        assert_eq!(
            question.no_entry().message,
            "no pg_hba.conf entry for replication connection from host \"192.0.2.1\", user \"ann\", no encryption"
        );
        let question = Question { is_physical: false, approach: &unix(), ..question };
        assert_eq!(
            question.rejected().message,
            "pg_hba.conf rejects connection for host \"[local]\", user \"ann\", database \"ann\", no encryption"
        );
    }
}
