//! Making settings and prepared statements again on a new link.

use super::linking::{Past, Wanted};
use super::walk::{Reported, keep_last};
use crate::base::Site;
use crate::sys::Socket;
use crate::wire::frame::{HEADER, Head, cstring, head};
use crate::wire::report::Report;
use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The first object id that differs from server to server ("FirstNormalObjectId").
pub(super) const FIRST_USER_OID: u32 = 16_384;

/// Messages to send, and how many ReadyForQuery they bring.
#[derive(Debug, Default)]
pub struct Script {
    bytes: Vec<u8>,
    endings: usize,
}

/// Why a session cannot be made again.
#[derive(Debug)]
pub enum Failure {
    /// The server said no.
    Refused(Report),
    /// The link broke.
    Broken,
}

impl Script {
    /// What makes the session again at `site`.
    pub fn of(wanted: &Wanted, site: Site) -> Self {
        let mut script = Self::default();
        for setting in &wanted.settings {
            let length = u32::try_from(setting.len() + 5).expect("settings are short");
            script.bytes.push(b'Q');
            script.bytes.extend(length.to_be_bytes());
            script.bytes.extend(setting.as_bytes());
            script.bytes.push(0);
            script.endings += 1;
        }
        for statement in &wanted.statements {
            let start = script.bytes.len();
            script.bytes.extend(statement);
            if wanted.past != Past::At(site) {
                forget_user_types(&mut script.bytes[start..]);
            }
        }
        if !wanted.statements.is_empty() {
            script.bytes.extend(b"S\0\0\0\x04");
            script.endings += 1;
        }
        script
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.endings == 0
    }

    /// Sends it and reads the answers, of which `leftover` has been read already. Whole settings
    /// that the server reports are put into `reported`.
    pub async fn play(
        self,
        socket: &mut Socket,
        leftover: &[u8],
        reported: &mut Vec<Reported>,
    ) -> Result<(), Failure> {
        let mut bytes = BytesMut::from(leftover);
        let (mut reader, mut writer) = tokio::io::split(socket);
        // Both at once: many statements have more answers than socket buffers hold.
        let sending = async {
            writer.write_all(&self.bytes).await.map_err(|_| Failure::Broken)?;
            writer.flush().await.map_err(|_| Failure::Broken)
        };
        let receiving = async {
            let mut endings = self.endings;
            while endings > 0 {
                while let Head::Frame { tag, total } = head(&bytes) {
                    if bytes.len() < total {
                        break;
                    }
                    let mut frame = bytes.split_to(total).freeze();
                    frame.advance(HEADER);
                    endings -= usize::from(tag == b'Z');
                    note(tag, frame, reported)?;
                }
                if endings > 0 && reader.read_buf(&mut bytes).await.map_err(|_| Failure::Broken)? == 0 {
                    return Err(Failure::Broken);
                }
            }
            Ok(())
        };
        tokio::try_join!(sending, receiving).map(|_| ())
    }
}

fn note(tag: u8, body: Bytes, reported: &mut Vec<Reported>) -> Result<(), Failure> {
    match tag {
        b'E' => return Err(Failure::Refused(Report::new(body))),
        b'S' => {
            if let Some((name, rest)) = cstring(&body)
                && let Some((value, _)) = cstring(rest)
            {
                keep_last(reported, name, value);
            }
        }
        _ => {}
    }
    Ok(())
}

/// Types that users have made have other numbers on another server: the server is left to infer
/// them ("Parse": zero means unspecified).
pub(super) fn forget_user_types(parse: &mut [u8]) {
    let Some(types) = types_at(parse) else { return };
    for oid in parse[types..].chunks_exact_mut(4) {
        if is_users(oid) {
            oid.fill(0);
        }
    }
}

/// Whether some type of a Parse message is one that users have made. `body` is what stands behind the name.
pub(super) fn has_user_types(body: &[u8]) -> bool {
    let types = cstring(body).and_then(|(_, rest)| rest.get(2..)).unwrap_or_default();
    types.chunks_exact(4).any(is_users)
}

fn is_users(oid: &[u8]) -> bool {
    u32::from_be_bytes([oid[0], oid[1], oid[2], oid[3]]) >= FIRST_USER_OID
}

/// Where the list of types begins in a Parse message.
fn types_at(parse: &[u8]) -> Option<usize> {
    let (_, rest) = cstring(parse.get(HEADER..)?)?;
    let (_, rest) = cstring(rest)?;
    rest.get(2..).map(|types| parse.len() - types.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_types_of_users_are_forgotten() {
        let mut parse = b"P\0\0\0\x19s\0select\0\0\x02".to_vec();
        parse.extend(23u32.to_be_bytes());
        parse.extend(16_400u32.to_be_bytes());
        assert!(has_user_types(&parse[HEADER + 2..]));
        forget_user_types(&mut parse);
        assert!(!has_user_types(&parse[HEADER + 2..]) && !has_user_types(b"no zero"));
        let types = &parse[parse.len() - 8..];
        assert_eq!(types, [0, 0, 0, 23, 0, 0, 0, 0]);
        forget_user_types(&mut b"P\0\0\0\x05s".to_vec());
    }
}
