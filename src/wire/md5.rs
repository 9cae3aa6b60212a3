//! Passwords by md5, as PostgreSQL had them before SCRAM ("Password Authentication").

use md5::{Digest, Md5};

/// What a server keeps of a password: `md5` and the hash of password and role.
pub fn stored(user: &[u8], password: &[u8]) -> String {
    hashed(&[password, user])
}

/// What a client answers to a challenge with `salt`; `stored` is what the server keeps.
pub fn answer(stored: &str, salt: [u8; 4]) -> String {
    hashed(&[stored.strip_prefix("md5").unwrap_or(stored).as_bytes(), &salt])
}

/// Whether two such texts are the same; tells nothing by its duration.
pub fn is_equal(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && std::hint::black_box(left.iter().zip(right).fold(0, |sum, (a, b)| sum | (a ^ b))) == 0
}

fn hashed(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().iter().fold("md5".to_owned(), |mut text, byte| {
        for digit in [byte >> 4, byte & 15] {
            text.push(char::from_digit(digit.into(), 16).expect("below 16"));
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_those_of_postgresql() {
        // SELECT 'md5' || md5('pw' || 'joe')
        let kept = stored(b"joe", b"pw");
        assert_eq!(kept, "md51336ddf712b53e2c9f51af2f7c5af6c2");
        let driver = postgres_protocol::authentication::md5_hash(b"joe", b"pw", [1, 2, 3, 4]);
        assert_eq!(answer(&kept, [1, 2, 3, 4]), driver);
        assert!(is_equal(kept.as_bytes(), stored(b"joe", b"pw").as_bytes()));
        assert!(!is_equal(kept.as_bytes(), stored(b"joe", b"pW").as_bytes()));
        assert!(!is_equal(b"", b"x"));
    }
}
