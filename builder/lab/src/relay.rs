//! Brings the API to the host: a port of 127.0.0.1 there leads into the lab's namespace.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use tokio::net::TcpStream;

use crate::system::netns;

/// Starts the relay to an address inside a namespace and gives its address on the host.
///
/// # Errors
/// When no port is free or the namespace cannot be entered.
pub fn start(namespace: PathBuf, to: SocketAddr) -> io::Result<SocketAddr> {
    // The listener is made out here and so belongs to the host; connections are made in the thread
    // below, which lives in the namespace.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let address = listener.local_addr()?;
    let (entered, outcome) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime =
            netns::enter(&namespace).and_then(|()| tokio::runtime::Builder::new_current_thread().enable_io().build());
        match runtime {
            Ok(runtime) => {
                let _ = entered.send(Ok(()));
                runtime.block_on(relay(listener, to));
            }
            Err(error) => drop(entered.send(Err(error))),
        }
    });
    outcome.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    Ok(address)
}

async fn relay(listener: TcpListener, to: SocketAddr) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    while let Ok((mut outside, _)) = listener.accept().await {
        tokio::spawn(async move {
            if let Ok(mut inside) = TcpStream::connect(to).await {
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
    }
}
