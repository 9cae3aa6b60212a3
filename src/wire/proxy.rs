//! The header in front of a connection that a load balancer passes on: PROXY protocol, version 2
//! (haproxy's `proxy-protocol.txt`, section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the fixed part: the signature, the command, the family and the length of the rest.
pub const HEAD: usize = 16;
/// The longest rest that is read. Addresses take 216 bytes at most; what follows them is optional
/// and of no use here.
pub const REST_MAX: usize = 4096;

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// What the fixed part says of the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    command: Command,
    family: u8,
    /// Length of the rest.
    pub rest: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Local,
    Proxy,
}

/// For whom the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// For the one who connected: a health check of the load balancer's own.
    Itself,
    /// For a client with this address.
    Client(SocketAddr),
    /// For a client without an address of the internet: a Unix socket, or not said.
    Unknown,
}

/// Why it is no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// The signature is missing: the peer speaks something else, or version 1.
    #[error("no PROXY protocol header of version 2")]
    NoHeader,
    /// Version or command are not known.
    #[error("a PROXY protocol header with an unknown version or command: 0x{0:02x}")]
    Command(u8),
    /// Longer than anything useful.
    #[error("a PROXY protocol header of {0} bytes")]
    TooLong(usize),
    /// Shorter than its addresses.
    #[error("a PROXY protocol header without room for its addresses")]
    TooShort,
}

/// Whether a header may begin with these bytes.
pub fn may_begin(bytes: &[u8]) -> bool {
    let common = bytes.len().min(SIGNATURE.len());
    bytes[..common] == SIGNATURE[..common]
}

/// Reads the fixed part.
pub fn announced(head: &[u8; HEAD]) -> Result<Announced, ProxyError> {
    if head[..12] != SIGNATURE {
        return Err(ProxyError::NoHeader);
    }
    let command = match head[12] {
        0x20 => Command::Local,
        0x21 => Command::Proxy,
        other => return Err(ProxyError::Command(other)),
    };
    let rest = usize::from(u16::from_be_bytes([head[14], head[15]]));
    if rest > REST_MAX {
        return Err(ProxyError::TooLong(rest));
    }
    Ok(Announced { command, family: head[13], rest })
}

/// Reads the rest, which has the announced length.
pub fn source(announced: Announced, rest: &[u8]) -> Result<Source, ProxyError> {
    // Families: 1 is IPv4, 2 IPv6, 3 Unix; transports in the lower half: 1 is a stream.
    match (announced.command, announced.family) {
        (Command::Local, _) => Ok(Source::Itself),
        (Command::Proxy, 0x11) => {
            let Some((address, rest)) = rest.split_first_chunk::<8>() else {
                return Err(ProxyError::TooShort);
            };
            let ip = Ipv4Addr::new(address[0], address[1], address[2], address[3]);
            port(rest).map(|port| Source::Client(SocketAddr::new(IpAddr::V4(ip), port)))
        }
        (Command::Proxy, 0x21) => {
            let Some((address, rest)) = rest.split_first_chunk::<32>() else {
                return Err(ProxyError::TooShort);
            };
            let (ip, _) = address.split_first_chunk::<16>().expect("32 bytes begin with 16");
            let ip = Ipv6Addr::from(*ip);
            // An IPv4 client of a listener for both.
            port(rest).map(|port| Source::Client(SocketAddr::new(IpAddr::V6(ip).to_canonical(), port)))
        }
        (Command::Proxy, _) => Ok(Source::Unknown),
    }
}

/// The source's port, in front of the destination's.
fn port(rest: &[u8]) -> Result<u16, ProxyError> {
    match rest {
        [a, b, _, _, ..] => Ok(u16::from_be_bytes([*a, *b])),
        _ => Err(ProxyError::TooShort),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Source, ProxyError> {
        let (head, rest) = bytes.split_first_chunk::<HEAD>().expect("a whole head");
        let announced = announced(head)?;
        source(announced, &rest[..announced.rest])
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[test]
    fn addresses_are_read() {
        let four = header(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x19, 0x20]);
        assert_eq!(read(&four), Ok(Source::Client("192.0.2.7:12345".parse().unwrap())));
        let with_more = header(0x21, 0x11, &[192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x19, 0x20, 4, 0, 1, 9]);
        assert_eq!(read(&with_more), read(&four));
        let mut six = Ipv6Addr::LOCALHOST.octets().to_vec();
        six.extend(Ipv6Addr::UNSPECIFIED.octets());
        six.extend([0, 1, 0, 2]);
        assert_eq!(read(&header(0x21, 0x21, &six)), Ok(Source::Client("[::1]:1".parse().unwrap())));
        six[..16].copy_from_slice(&Ipv4Addr::new(10, 1, 2, 3).to_ipv6_mapped().octets());
        assert_eq!(read(&header(0x21, 0x21, &six)), Ok(Source::Client("10.1.2.3:1".parse().unwrap())));
        assert_eq!(read(&header(0x20, 0, b"")), Ok(Source::Itself));
        assert_eq!(read(&header(0x20, 0x11, b"anything")), Ok(Source::Itself));
        assert_eq!(read(&header(0x21, 0, b"")), Ok(Source::Unknown));
        assert_eq!(read(&header(0x21, 0x31, &[0; 216])), Ok(Source::Unknown));
    }

    #[test]
    fn what_is_no_header_is_refused() {
        assert_eq!(read(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 2\r\n"), Err(ProxyError::NoHeader));
        assert_eq!(read(&header(0x11, 0x11, b"")), Err(ProxyError::Command(0x11)));
        assert_eq!(read(&header(0x22, 0x11, b"")), Err(ProxyError::Command(0x22)));
        assert_eq!(read(&header(0x21, 0x11, &[1, 2, 3, 4, 5, 6, 7])), Err(ProxyError::TooShort));
        assert_eq!(read(&header(0x21, 0x11, &[1; 11])), Err(ProxyError::TooShort));
        assert_eq!(read(&header(0x21, 0x21, &[1; 35])), Err(ProxyError::TooShort));
        assert_eq!(read(&header(0x21, 0x11, &[1; 5000])), Err(ProxyError::TooLong(5000)));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(command: u8, family: u8, rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..60)) {
            let _ = read(&header(command, family, &rest));
            let _ = read(&header(0x21, family, &rest));
        }
    }
}
