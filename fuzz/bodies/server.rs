//! What a server says outside of a relay: errors, changes of a replication stream, and the header of a proxy
//! in front of a client.

use bytes::{Bytes, BytesMut};
use cloud_mirror::wire::frame::{HEADER, Head, head};
use cloud_mirror::wire::message::error_report;
use cloud_mirror::wire::report::Report;
use cloud_mirror::wire::{pgoutput, proxy};

/// See the module.
pub fn check(data: &[u8]) {
    let report = Report::new(Bytes::copy_from_slice(data));
    let fields: Vec<(u8, Vec<u8>)> = report.fields().map(|(kind, value)| (kind, value.to_vec())).collect();
    assert!(fields.iter().map(|(_, value)| value.len() + 2).sum::<usize>() <= data.len() + 1);
    let _ = (report.severity(), report.code(), report.message(), report.detail(), report.hint());
    let mut written = BytesMut::new();
    error_report(&mut written, &report);
    assert_eq!(head(&written), Head::Frame { tag: b'E', total: written.len() });
    assert_eq!(&written[HEADER..], data);
    let _ = pgoutput::decode(&Bytes::copy_from_slice(data));
    if let Some((first, rest)) = data.split_first_chunk()
        && let Ok(announced) = proxy::announced(first)
    {
        assert!(proxy::may_begin(first));
        let _ = proxy::source(announced, rest);
    }
    if let Head::Frame { total, .. } = head(data) {
        assert!((HEADER..=1 << 30).contains(&total));
    }
}
