//! The smallest front door: opens, authenticates, links as the client's role, relays. The relay
//! runs on another thread's runtime, so that every session here is also a moved one.

use crate::SOON;
use bytes::BytesMut;
use cloud_mirror::auth::{
    AuthError, Authenticated, Authenticator, ClientEncryption, Door, OpenError, Opened, Settings,
    TrustedProxies, open,
};
use cloud_mirror::backend::{self, Endpoint, Login, Party};
use cloud_mirror::lab::{eventually, that};
use cloud_mirror::observe::events::Events;
use cloud_mirror::sys::Socket;
use cloud_mirror::wire::message::{self, Complaint, TransactionStatus};
use std::sync::{Arc, Mutex};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

pub struct Front {
    pub port: u16,
    pub events: Events,
    log: Arc<Mutex<Vec<String>>>,
}

/// What `Front` says when the server behind it cannot be reached.
pub const NO_SERVER: &str = "no server behind the front";

impl Front {
    pub async fn start(settings: Settings, encryption: ClientEncryption, party: Party) -> Front {
        let events = Events::default();
        let endpoint = party.endpoint.clone();
        let source = move || Some(party.clone());
        let authenticator = Arc::new(Authenticator::new(settings, Arc::new(source), events.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let front = Front { port, events, log: log.clone() };
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let session = (authenticator.clone(), encryption.clone(), endpoint.clone());
                let log = log.clone();
                tokio::spawn(async move {
                    let (authenticator, encryption, endpoint) = session;
                    if let Err(why) = serve(Socket::Tcp(tcp), &authenticator, &encryption, &endpoint).await {
                        log.lock().unwrap().push(why);
                    }
                });
            }
        });
        front
    }

    /// Waits until it is known that a client did not get in for this reason: behind the word to the client.
    pub async fn said(&self, words: &str) {
        let log = || self.log.lock().unwrap().join("\n");
        eventually(SOON, async || that(log(), |log| log.contains(words))).await;
    }
}

async fn serve(
    socket: Socket,
    authenticator: &Authenticator,
    encryption: &ClientEncryption,
    endpoint: &Endpoint,
) -> Result<(), String> {
    let peer = socket.peer();
    let opened = open(socket, peer, encryption, &TrustedProxies::default(), SOON)
        .await
        .map_err(|e: OpenError| e.to_string())?;
    let Opened::Session { mut socket, approach, mut startup, mut buffered } = opened else { return Ok(()) };
    let authenticated = authenticator
        .authenticate(&mut socket, &mut buffered, &startup, &approach, Door::Database)
        .await
        .map_err(|e: AuthError| e.to_string())?;
    let Authenticated { user, proof, .. } = authenticated;
    let login = Login { user, proof };
    let mut out = BytesMut::new();
    let mut parameters = startup.take_parameters();
    parameters.push((b"database".to_vec(), startup.database.clone()));
    let link = match backend::connect(endpoint, &login, &parameters, SOON).await {
        Ok(link) => link,
        Err(error) => {
            match error.report() {
                Some(report) => message::error_report(&mut out, report),
                None => Complaint::fatal("57P03", NO_SERVER).put(&mut out),
            }
            let _ = socket.write_all_buf(&mut out).await;
            return Err(error.to_string());
        }
    };
    message::authentication_ok(&mut out);
    for (name, value) in &link.parameters {
        message::parameter_status(&mut out, name, value);
    }
    message::backend_key_data(&mut out, link.pid, b"ours");
    message::ready_for_query(&mut out, TransactionStatus::Idle);
    out.extend_from_slice(&link.leftover);
    let (client, server) = (socket.detach().unwrap(), link.stream.detach().unwrap());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let (mut client, mut server) = (client.attach().unwrap(), server.attach().unwrap());
            server.write_all_buf(&mut buffered).await.unwrap();
            server.flush().await.unwrap();
            client.write_all_buf(&mut out).await.unwrap();
            client.flush().await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    });
    Ok(())
}
