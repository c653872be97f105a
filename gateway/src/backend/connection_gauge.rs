//! A gauge of open connections.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

use crate::runtime::poll_budget;

/// The number of open connections of a client. A cheap-clone handle.
#[derive(Clone, Debug, Default)]
pub(super) struct ConnectionGauge(Arc<AtomicUsize>);

/// A connection that the gauge counts until it is dropped.
#[derive(Debug)]
pub(super) struct CountedConnection<C> {
    connection: C,
    open: ConnectionGauge,
}

impl ConnectionGauge {
    /// The number of open connections.
    pub(super) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Wraps `connection` and counts it.
    pub(super) fn with<C>(&self, connection: C) -> CountedConnection<C> {
        self.0.fetch_add(1, Ordering::Relaxed);
        CountedConnection {
            connection,
            open: self.clone(),
        }
    }
}

impl<C> Drop for CountedConnection<C> {
    fn drop(&mut self) {
        self.open.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<C: Connection> Connection for CountedConnection<C> {
    fn connected(&self) -> Connected {
        self.connection.connected()
    }
}

impl<C: Read + Unpin> Read for CountedConnection<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // The number of bytes read is not visible here. The offered buffer size follows the last reads.
        let room = buffer.remaining();
        let read = Pin::new(&mut self.connection).poll_read(context, buffer);
        if read.is_ready() {
            poll_budget::count(room);
        }
        read
    }
}

impl<C: Write + Unpin> Write for CountedConnection<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, parts)
    }
}
