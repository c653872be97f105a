//! Reads the lines of a server's standard output within the budget of its backend.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::backend::BackendError;
use crate::backend::response_reader::grow;
use crate::budget::{Account, Reservation, UNCOUNTED_BYTES};

/// The longest accepted line.
const MAX_LINE_BYTES: usize = 16 * 1024 * 1024;
/// The least room in the buffer for one read.
const MIN_READ_BYTES: usize = 4 * 1024;

/// The lines of one stream, which may be large messages.
#[derive(Debug)]
pub(super) struct LineReader<R> {
    stream: R,
    buffer: BytesMut,
    /// The number of bytes at the beginning of the buffer that contain no line break.
    scanned: usize,
    account: Account,
    /// The reservation for the buffer.
    reserved: Reservation,
}

impl<R: AsyncRead + Unpin> LineReader<R> {
    pub(super) fn new(stream: R, account: Account) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            scanned: 0,
            reserved: account.begin(),
            account,
        }
    }

    /// The next line without its line break, or `None` at the end of the stream; what follows the last line break is no line. Cancel safe.
    ///
    /// # Errors
    /// When a line is too long or exceeds the budget, or the stream cannot be read.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, BackendError> {
        loop {
            let unscanned = self.buffer.get(self.scanned..).unwrap_or_default();
            if let Some(at) = memchr::memchr(b'\n', unscanned) {
                let line = self.buffer.split_to(self.scanned + at + 1);
                self.scanned = 0;
                return Ok(Some(self.counted(line.freeze())));
            }
            self.scanned = self.buffer.len();
            if self.scanned > MAX_LINE_BYTES {
                return Err(BackendError::TooLarge(MAX_LINE_BYTES as u64));
            }
            if self.scanned > UNCOUNTED_BYTES
                && let Some(more) = self.scanned.checked_sub(self.reserved.bytes())
            {
                grow(&mut self.reserved, more).await?;
            }
            self.buffer.reserve(MIN_READ_BYTES);
            let read = self.stream.read_buf(&mut self.buffer).await;
            if read.map_err(|error| BackendError::Broken(error.to_string()))? == 0 {
                return Ok(None);
            }
        }
    }

    /// Counts the line in the budget for as long as it lives, and removes its line break.
    fn counted(&mut self, mut line: Bytes) -> Bytes {
        // Release first, so that the same bytes do not count twice. Shrinking a reservation never fails.
        let _less = self.reserved.resize(0);
        let end = line.trim_ascii_end().len();
        line.truncate(end);
        self.account.count(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_read_across_chunks_without_their_breaks() {
        let stream = tokio_test_stream(&[b"{\"a\"", b":1}\r\n\n[", b"]\nrest"]);
        let mut lines = LineReader::new(stream, Account::root(usize::MAX));
        for expected in [&b"{\"a\":1}"[..], b"", b"[]"] {
            assert_eq!(lines.next().await.unwrap().unwrap(), expected);
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }

    /// A stream that yields `chunks` one by one.
    fn tokio_test_stream(chunks: &'static [&'static [u8]]) -> impl AsyncRead + Unpin {
        let mut stream: Box<dyn AsyncRead + Unpin + Send> = Box::new(tokio::io::empty());
        for chunk in chunks.iter().rev() {
            stream = Box::new(chunk.chain(stream));
        }
        stream
    }

    #[tokio::test]
    async fn large_line_is_counted_until_it_is_dropped() {
        let account = Account::root(usize::MAX);
        let text = [&vec![b'x'; 100_000][..], b"\nshort\n"].concat();
        let mut lines = LineReader::new(&text[..], account.clone());
        let large = lines.next().await.unwrap().unwrap();
        assert_eq!(account.reserved(), 100_000);
        drop(large);
        let short = lines.next().await.unwrap();
        assert_eq!((short.as_deref(), account.reserved()), (Some(&b"short"[..]), 0));
    }

    #[tokio::test]
    async fn endless_line_is_an_error() {
        let mut lines = LineReader::new(tokio::io::repeat(b'x'), Account::root(usize::MAX));
        let error = lines.next().await.unwrap_err();
        assert_eq!(error, BackendError::TooLarge(MAX_LINE_BYTES as u64));
    }
}
