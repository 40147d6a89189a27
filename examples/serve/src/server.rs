//! Listening, and leaving in order.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How long requests under way may take when the program leaves.
const FAREWELL: Duration = Duration::from_secs(30);

/// Binds the address: `127.0.0.1:9290`, `:9290` for all interfaces, or a host's name.
///
/// # Errors
/// The operating system's, with the address.
pub async fn listen(address: &str) -> io::Result<TcpListener> {
    let full = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
    let bound = TcpListener::bind(&full).await;
    bound.map_err(|error| io::Error::new(error.kind(), format!("listening on {address}: {error}")))
}

/// Serves until `leave` is done, then takes no new connections and finishes the requests under way.
///
/// # Errors
/// The operating system's.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    leave: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (told, mut heard) = tokio::sync::watch::channel(());
    let served = axum::serve(listener, router).with_graceful_shutdown(async move {
        leave.await;
        drop(told);
    });
    let overdue = async move {
        // Changed fails when the sender is gone: when leaving begins.
        while heard.changed().await.is_ok() {}
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        served = served.into_future() => served,
        () = overdue => {
            tracing::warn!("requests under way are cut off");
            Ok(())
        }
    }
}

/// Done when the process is asked to leave: SIGTERM or SIGINT. SIGHUP, which asks for the configuration to be read again,
/// is taken and does nothing, as there is none yet.
///
/// # Errors
/// The operating system's, if signals cannot be caught.
pub fn asked_to_leave() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => break tracing::info!("asked to leave: SIGTERM"),
                _ = interrupt.recv() => break tracing::info!("asked to leave: SIGINT"),
                _ = hangup.recv() => tracing::info!("SIGHUP: nothing to read again"),
            }
        }
    })
}

/// Ends the process at once when it is asked to leave, from now on: for somebody who asked before and does not want to
/// wait. What was acknowledged is in the log.
///
/// # Errors
/// The operating system's, if signals cannot be caught.
pub fn leave_at_once_if_asked_again() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::warn!("asked again to leave: at once");
        std::process::exit(1);
    });
    Ok(())
}

/// The address that a listener has: the port, where the flag left it to the system.
#[must_use]
pub fn local_address(listener: &TcpListener) -> Option<SocketAddr> {
    listener.local_addr().ok()
}
