//! What a client says before it is known: in whatever pieces it comes, it is the same request or the same
//! refusal, and what is written again is read the same.

use cloud_mirror::wire::startup::{Opening, PACKET_MAX, Refusal, Request};

/// Hands over turns, each of which ends where the client waits for an answer, in pieces of `size`.
fn hold(turns: &[&[u8]], size: usize) -> (Vec<Result<Request, Refusal>>, Vec<u8>) {
    let mut opening = Opening::new();
    let mut heard = Vec::new();
    for turn in turns {
        let mut is_asked = false;
        for piece in turn.chunks(size) {
            match opening.push(piece) {
                Ok(None) => {}
                Ok(Some(request)) => {
                    is_asked = matches!(request, Request::Ssl | Request::GssEnc);
                    heard.push(Ok(request));
                }
                Err(refusal) => {
                    // That something was asked for in front of it does not matter any more.
                    heard.retain(Result::is_err);
                    heard.push(Err(refusal));
                    return (heard, Vec::new());
                }
            }
        }
        if is_asked {
            opening.declined();
        }
    }
    let rest = opening.into_rest();
    assert!(rest.len() <= turns.iter().map(|turn| turn.len()).sum());
    (heard, rest)
}

/// See the module. Turns end with `>>`.
pub fn check(data: &[u8]) {
    let mut turns = vec![data];
    while let Some(at) = turns.last().and_then(|last| last.windows(2).position(|two| two == b">>")) {
        let last = turns.pop().unwrap_or_default();
        turns.extend([&last[..at], &last[at + 2..]]);
    }
    let whole = hold(&turns, usize::MAX);
    for size in [1, 3, 7] {
        assert_eq!(whole, hold(&turns, size), "pieces of {size}");
    }
    for request in whole.0.iter().flatten() {
        if let Request::Start(startup) = request {
            assert!(!startup.user.is_empty() && startup.user.len() < 64 && startup.database.len() < 64);
            let packet = written(startup);
            // What was shorter than PostgreSQL takes may be longer with the database's name.
            if packet.len() <= PACKET_MAX {
                assert_eq!(Opening::new().push(&packet), Ok(Some(Request::Start(startup.clone()))));
            }
        }
    }
}

/// A packet that says the same.
fn written(startup: &cloud_mirror::wire::startup::Startup) -> Vec<u8> {
    let mut body = (3 << 16 | u32::from(startup.asked_minor)).to_be_bytes().to_vec();
    let names = [(b"user".to_vec(), startup.user.clone()), (b"database".to_vec(), startup.database.clone())];
    let extensions = startup.extensions.iter().map(|name| (name.clone(), Vec::new()));
    for (name, value) in names.into_iter().chain(startup.clone().take_parameters()).chain(extensions) {
        body.extend([name, vec![0], value, vec![0]].concat());
    }
    body.push(0);
    [&(body.len() as u32 + 4).to_be_bytes()[..], &body].concat()
}
