//! What a client sends ("Message Formats").

use std::fmt::Write;

/// Any message behind start-up.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![tag];
    bytes.extend((u32::try_from(body.len()).unwrap() + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

/// A start-up packet with these parameters.
pub fn startup(parameters: &[(&str, &str)]) -> Vec<u8> {
    startup_of(3 << 16, parameters)
}

/// The same in another version.
pub fn startup_of(version: u32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend([name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
    }
    body.push(0);
    let mut bytes = (u32::try_from(body.len()).unwrap() + 4).to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// A CancelRequest.
pub fn cancel(pid: i32, secret: &[u8]) -> Vec<u8> {
    let mut bytes = (12 + u32::try_from(secret.len()).unwrap()).to_be_bytes().to_vec();
    bytes.extend(80_877_102u32.to_be_bytes());
    bytes.extend(pid.to_be_bytes());
    bytes.extend(secret);
    bytes
}

pub fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"].concat())
}

pub fn parse(name: &str, text: &str, types: &[u32]) -> Vec<u8> {
    let mut body = [name.as_bytes(), b"\0", text.as_bytes(), b"\0"].concat();
    body.extend(u16::try_from(types.len()).unwrap().to_be_bytes());
    for oid in types {
        body.extend(oid.to_be_bytes());
    }
    message(b'P', &body)
}

/// Bind with values in text format, or binary ones where `formats` says so.
pub fn bind_as(
    portal: &str,
    statement: &str,
    formats: &[u16],
    values: &[Option<&[u8]>],
    results: &[u16],
) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", statement.as_bytes(), b"\0"].concat();
    let codes = |body: &mut Vec<u8>, codes: &[u16]| {
        body.extend(u16::try_from(codes.len()).unwrap().to_be_bytes());
        for code in codes {
            body.extend(code.to_be_bytes());
        }
    };
    codes(&mut body, formats);
    body.extend(u16::try_from(values.len()).unwrap().to_be_bytes());
    for value in values {
        match value {
            Some(value) => {
                body.extend(u32::try_from(value.len()).unwrap().to_be_bytes());
                body.extend(*value);
            }
            None => body.extend((-1i32).to_be_bytes()),
        }
    }
    codes(&mut body, results);
    message(b'B', &body)
}

pub fn bind(portal: &str, statement: &str, values: &[Option<&str>]) -> Vec<u8> {
    let values: Vec<_> = values.iter().map(|value| value.map(str::as_bytes)).collect();
    bind_as(portal, statement, &[], &values, &[])
}

pub fn describe_statement(name: &str) -> Vec<u8> {
    message(b'D', &[b"S", name.as_bytes(), b"\0"].concat())
}

pub fn describe_portal(name: &str) -> Vec<u8> {
    message(b'D', &[b"P", name.as_bytes(), b"\0"].concat())
}

pub fn execute(portal: &str, rows_max: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows_max.to_be_bytes()].concat())
}

pub fn close_statement(name: &str) -> Vec<u8> {
    message(b'C', &[b"S", name.as_bytes(), b"\0"].concat())
}

pub fn close_portal(name: &str) -> Vec<u8> {
    message(b'C', &[b"P", name.as_bytes(), b"\0"].concat())
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

pub fn copy_data(text: &str) -> Vec<u8> {
    message(b'd', text.as_bytes())
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', &[why.as_bytes(), b"\0"].concat())
}

/// A call of a function by its number, with arguments and result in text format.
pub fn function_call(oid: u32, arguments: &[Option<&str>]) -> Vec<u8> {
    let mut body = oid.to_be_bytes().to_vec();
    body.extend([0, 0]);
    body.extend(u16::try_from(arguments.len()).unwrap().to_be_bytes());
    for argument in arguments {
        match argument {
            Some(text) => {
                body.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
                body.extend(text.as_bytes());
            }
            None => body.extend((-1i32).to_be_bytes()),
        }
    }
    body.extend([0, 0]);
    message(b'F', &body)
}

/// Parse, Bind, Describe, Execute and Sync with unnamed statement and portal.
pub fn extended(text: &str) -> Vec<u8> {
    [parse("", text, &[]), bind("", "", &[]), describe_portal(""), execute("", 0), sync()].concat()
}

/// Messages for a person to read.
pub fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = bytes;
    while let Some(&[tag, a, b, c, d]) = rest.first_chunk::<5>() {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length < 4 || length >= rest.len() {
            break;
        }
        let body = &rest[5..=length];
        let cut = if body.len() > 160 { format!("… ({} bytes)", body.len()) } else { String::new() };
        let _ = write!(text, "{} {}{cut}; ", tag as char, body[..body.len().min(160)].escape_ascii());
        rest = &rest[length + 1..];
    }
    if !rest.is_empty() {
        let _ = write!(text, "raw {}", rest[..rest.len().min(80)].escape_ascii());
    }
    text
}
