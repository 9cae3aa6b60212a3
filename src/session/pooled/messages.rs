//! Messages of ours, and the client's with the names that the server has.

use super::ask::{Sent, Side};
use crate::wire::frame::HEADER;

/// Adds a Close of a statement or portal.
pub(super) fn put_close(out: &mut Vec<u8>, kind: u8, name: &[u8]) {
    put_about(out, b'C', kind, name);
}

/// Adds a Close or Describe of a statement or portal.
pub(super) fn put_about(out: &mut Vec<u8>, tag: u8, kind: u8, name: &[u8]) {
    out.push(tag);
    out.extend((name.len() as u32 + 6).to_be_bytes());
    out.push(kind);
    out.extend(name);
    out.push(0);
}

/// Puts the beginning of a message with another name into the patch. Before the name stands a name
/// of a portal (Bind), one byte (Describe) or nothing (Parse).
pub(super) fn rename(
    tag: u8,
    total: usize,
    before: &[u8],
    name: &[u8],
    own: &[u8],
    side: &mut Side<'_>,
) -> Sent {
    let length = total - 1 - name.len() + own.len();
    side.patch.push(tag);
    side.patch.extend((length as u32).to_be_bytes());
    side.patch.extend(before);
    let mut skipped = HEADER + before.len() + name.len() + 1;
    if tag == b'B' {
        side.patch.push(0);
        skipped += 1;
    }
    side.patch.extend(own);
    side.patch.push(0);
    Sent::Instead(skipped)
}
