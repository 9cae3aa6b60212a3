//! What this machine is called and knows.

use std::net::IpAddr;

/// The networks that this machine is in: an address of its own and the bits of it that all have.
pub fn networks() -> Vec<(IpAddr, IpAddr)> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let ip = |address: nix::sys::socket::SockaddrStorage| -> Option<IpAddr> {
        match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(four), _) => Some(four.ip().into()),
            (_, Some(six)) => Some(six.ip().into()),
            (None, None) => None,
        }
    };
    interfaces.filter_map(|interface| Some((ip(interface.address?)?, ip(interface.netmask?)?))).collect()
}

/// The name of a user of the operating system.
pub fn user_name(uid: u32) -> Option<String> {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(uid)).ok()??;
    Some(user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_knows_itself() {
        let networks = networks();
        assert!(networks.iter().any(|(address, _)| address.is_loopback()), "{networks:?}");
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
    }
}
