//! The protocol by hand, over whatever stream.

use bytes::{Buf, Bytes, BytesMut};
use cloud_mirror::wire::report::Report;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub async fn send<S: AsyncWrite + Unpin>(stream: &mut S, tag: u8, body: &[u8]) {
    let mut message = vec![tag];
    message.extend((body.len() as u32 + 4).to_be_bytes());
    message.extend(body);
    stream.write_all(&message).await.unwrap();
    stream.flush().await.unwrap();
}

/// The next message, or `None` at the end.
pub async fn receive<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> Option<(u8, Bytes)> {
    loop {
        if buffer.len() >= 5 {
            let total = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize + 1;
            if buffer.len() >= total {
                let mut message = buffer.split_to(total).freeze();
                let tag = message.get_u8();
                message.advance(4);
                return Some((tag, message));
            }
        }
        if stream.read_buf(buffer).await.ok()? == 0 {
            return None;
        }
    }
}

/// First column of the first row that a simple query answers, as text, or its error.
pub async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    buffer: &mut BytesMut,
    sql: &str,
) -> Result<String, Report> {
    send(stream, b'Q', format!("{sql}\0").as_bytes()).await;
    answer(stream, buffer).await
}

/// What a query that was sent already answers.
pub async fn answer<S: AsyncRead + Unpin>(stream: &mut S, buffer: &mut BytesMut) -> Result<String, Report> {
    let mut result = Ok(String::new());
    loop {
        let (tag, mut body) = receive(stream, buffer).await.expect("the connection lives");
        match tag {
            b'D' => {
                body.advance(2);
                let length = body.get_i32().max(0) as usize;
                result = Ok(String::from_utf8(body[..length].to_vec()).unwrap());
            }
            b'E' => result = Err(Report::new(body)),
            b'Z' => return result,
            _ => {}
        }
    }
}
