//! The header every message after start-up has: a type byte and a length ("Message Formats").

/// Bytes of a header: the type and the length, which counts itself and the body.
pub const HEADER: usize = 5;

/// The longest message PostgreSQL makes or takes: its allocations end at 1 GiB ("PQ_LARGE_MESSAGE_LIMIT").
pub const FRAME_MAX: usize = 0x3fff_ffff;

/// What stands at the start of some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// Fewer than five bytes: wait for more.
    Partial,
    /// A message of `total` bytes, header included, which need not all be there yet.
    Frame {
        /// The type.
        tag: u8,
        /// Header and body.
        total: usize,
    },
    /// A length that cannot be.
    Bad {
        /// The type.
        tag: u8,
        /// What it claimed, without the type byte.
        length: u32,
    },
}

/// Reads the header at the start of `bytes`. The length is a claim: nothing is allocated for it.
pub fn head(bytes: &[u8]) -> Head {
    let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<HEADER>() else {
        return Head::Partial;
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    match usize::try_from(length) {
        Ok(n) if (4..=FRAME_MAX).contains(&n) => Head::Frame { tag, total: n + 1 },
        _ => Head::Bad { tag, length },
    }
}

/// The text up to the next zero byte, and what follows that; `None` without a zero byte.
pub fn cstring(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(0, bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_a_type_and_a_believable_length() {
        assert_eq!(head(b"Q\0\0\0"), Head::Partial);
        assert_eq!(head(b"S\0\0\0\x04"), Head::Frame { tag: b'S', total: 5 });
        assert_eq!(head(b"Q\0\0\0\x0dSELECT"), Head::Frame { tag: b'Q', total: 14 });
        for length in [0u32, 1, 3, 0x4000_0000, u32::MAX] {
            let mut bytes = vec![b'Q'];
            bytes.extend(length.to_be_bytes());
            assert_eq!(head(&bytes), Head::Bad { tag: b'Q', length });
        }
    }

    #[test]
    fn a_cstring_ends_at_its_zero() {
        assert_eq!(cstring(b"ab\0c"), Some((&b"ab"[..], &b"c"[..])));
        assert_eq!(cstring(b"\0"), Some((&b""[..], &b""[..])));
        assert_eq!(cstring(b"ab"), None);
    }
}
