//! Decodes response bodies that a backend compressed, although every request asks for `identity`.
//!
//! A decoder returns at most a few times [`STEP_BYTES`] per step, so the reader can stop at its limit: a few compressed bytes may expand
//! to gigabytes. A decoder's own memory, mainly its window, is bounded (8 MiB for zstd by RFC 9659, 16 MiB for brotli) and counts against
//! the backend's buffer budget. Decoders allocate step by step as the body demands, and only allocated memory counts.

use std::fmt;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use brotli_decompressor::{
    Allocator, BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper as _, StandardAlloc,
};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use flate2::{Decompress, FlushDecompress, Status};
use http::{HeaderMap, HeaderValue};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, get_error_name};

use super::BackendError;
use crate::budget::{Account, Reservation};
use crate::runtime::truncate;

/// The most bytes that a decoder writes per step.
const STEP_BYTES: usize = 32 * 1024;
/// The largest zstd window, as a power of two.
const MAX_ZSTD_WINDOW_LOG: u32 = 23;
/// The memory of a gzip or deflate decoder, including its window of 32 KiB.
const DEFLATE_BYTES: usize = 64 * 1024;

/// The allocator of a brotli decoder. Counts the allocated bytes.
#[derive(Clone, Default)]
struct CountingAlloc(Arc<AtomicUsize>);

impl<T: Clone + Default> Allocator<T> for CountingAlloc {
    type AllocatedMemory = <StandardAlloc as Allocator<T>>::AllocatedMemory;

    fn alloc_cell(&mut self, len: usize) -> Self::AllocatedMemory {
        self.0.fetch_add(len * size_of::<T>(), Ordering::Relaxed);
        StandardAlloc::default().alloc_cell(len)
    }

    fn free_cell(&mut self, data: Self::AllocatedMemory) {
        self.0.fetch_sub(data.len() * size_of::<T>(), Ordering::Relaxed);
    }
}

/// A supported content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

/// The decoder of one body.
pub(super) struct Decoder {
    coding: Coding,
    /// Received bytes that are not decoded yet.
    input: Bytes,
    /// `None` before the first byte, which determines the memory need.
    state: Option<State>,
    /// The output buffer of one step.
    scratch: Vec<u8>,
    /// Whether zstd filled `scratch` in the last step, so it may hold more output.
    filled: bool,
    ended: bool,
    /// The reservation for the allocated memory.
    reserved: Reservation,
}

enum State {
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Deflate(Decompress),
    Brotli(Box<Brotli>, CountingAlloc),
    Zstd(DCtx<'static>),
}

type Brotli = BrotliState<CountingAlloc, CountingAlloc, CountingAlloc>;

impl State {
    /// The number of allocated bytes.
    fn bytes(&self) -> usize {
        match self {
            Self::Gzip(_) | Self::Deflate(_) => DEFLATE_BYTES,
            Self::Brotli(_, allocated) => size_of::<Brotli>() + allocated.0.load(Ordering::Relaxed),
            Self::Zstd(context) => context.sizeof(),
        }
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("coding", &self.coding)
            .finish_non_exhaustive()
    }
}

impl Decoder {
    /// Creates the decoder for a body with these headers, counted in `account`. `None` for an identity body.
    ///
    /// # Errors
    /// When the coding is unknown.
    pub(super) fn of(headers: &HeaderMap, account: &Account) -> Result<Option<Self>, BackendError> {
        let mut codings = headers.get_all(http::header::CONTENT_ENCODING).iter();
        let (Some(first), second) = (codings.next(), codings.next()) else {
            return Ok(None);
        };
        let name = first.to_str().unwrap_or_default().trim().to_ascii_lowercase();
        let coding = match (&*name, second) {
            ("" | "identity", None) if first.to_str().is_ok() => return Ok(None),
            ("gzip" | "x-gzip", None) => Coding::Gzip,
            ("deflate", None) => Coding::Deflate,
            ("br", None) => Coding::Brotli,
            ("zstd", None) => Coding::Zstd,
            _ => return Err(unknown(first)),
        };
        Ok(Some(Self {
            coding,
            input: Bytes::new(),
            state: None,
            scratch: Vec::new(),
            filled: false,
            ended: false,
            reserved: account.begin(),
        }))
    }

    /// Appends more of the body.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        // Another frame may follow the one that has ended.
        self.ended &= self.coding != Coding::Zstd;
        if self.input.is_empty() {
            self.input = bytes;
        } else {
            self.input = Bytes::from([&self.input[..], &bytes].concat());
        }
    }

    /// Returns the next decoded bytes, or `None` when it needs more of the body.
    ///
    /// # Errors
    /// When the body does not match its header, or needs more memory than the budget allows.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, BackendError> {
        loop {
            let before = self.input.len();
            if self.ended {
                // Ignore padding after the end. Only gzip allows a second stream in one body.
                self.input = Bytes::new();
                return Ok(None);
            }
            if self.state.is_none() && !self.begin()? {
                return Ok(None);
            }
            // A zstd decoder fails after several steps without input.
            if self.coding == Coding::Zstd && self.input.is_empty() && !self.filled {
                return Ok(None);
            }
            let decoded = self.step().map_err(|reason| self.failed(&reason))?;
            self.reserve()?;
            if !decoded.is_empty() {
                return Ok(Some(decoded));
            }
            if self.input.is_empty() || self.input.len() == before && !self.ended {
                return Ok(None);
            }
        }
    }

    /// Checks at the end of the body that the coded stream is complete.
    ///
    /// # Errors
    /// When the stream is truncated.
    pub(super) fn finish(&mut self) -> Result<(), BackendError> {
        let whole = match &mut self.state {
            None => self.input.is_empty(),
            Some(State::Gzip(decoder)) => decoder.try_finish().is_ok(),
            Some(_) => self.ended,
        };
        if whole {
            return Ok(());
        }
        let message = format!("its body, encoded as {}, is cut short", self.coding);
        Err(BackendError::Broken(message))
    }

    /// Creates the decoder state once enough input has arrived. Returns whether it exists.
    fn begin(&mut self) -> Result<bool, BackendError> {
        let Some(first) = self.input.first() else {
            return Ok(false);
        };
        let state = match self.coding {
            Coding::Gzip => State::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Coding::Deflate => {
                // RFC 9110 means a zlib stream, but some servers send raw deflate.
                let Some(second) = self.input.get(1) else {
                    return Ok(false);
                };
                let is_zlib = first & 0x0f == 8 && u16::from_be_bytes([*first, *second]).is_multiple_of(31);
                State::Deflate(Decompress::new(is_zlib))
            }
            Coding::Brotli => {
                let alloc = CountingAlloc::default();
                let state = BrotliState::new_strict(alloc.clone(), alloc.clone(), alloc.clone());
                State::Brotli(Box::new(state), alloc)
            }
            Coding::Zstd => {
                let mut context =
                    DCtx::try_create().ok_or_else(|| self.failed("there is no memory for it"))?;
                let limit = DParameter::WindowLogMax(MAX_ZSTD_WINDOW_LOG);
                let limited = context.set_parameter(limit);
                limited.map_err(|code| self.failed(get_error_name(code)))?;
                State::Zstd(context)
            }
        };
        self.state = Some(state);
        self.reserve()?;
        self.scratch.resize(STEP_BYTES, 0);
        Ok(true)
    }

    /// Reserves the allocated memory after each step, so the reservation lags by at most a few times [`STEP_BYTES`].
    fn reserve(&mut self) -> Result<(), BackendError> {
        let bytes = STEP_BYTES + self.state.as_ref().map_or(0, State::bytes);
        if self.reserved.resize(bytes) {
            return Ok(());
        }
        Err(BackendError::NoRoom(self.reserved.account().limit()))
    }

    /// Decodes one step of the input.
    fn step(&mut self) -> Result<Bytes, String> {
        let (input, scratch) = (&self.input[..], &mut self.scratch[..]);
        let (read, written) = match &mut self.state {
            None => return Ok(Bytes::new()),
            Some(State::Gzip(decoder)) => {
                let read = decoder.write(input).map_err(|error| error.to_string())?;
                decoder.flush().map_err(|error| error.to_string())?;
                let decoded = Bytes::copy_from_slice(decoder.get_ref());
                decoder.get_mut().clear();
                self.consume(read);
                return Ok(decoded);
            }
            Some(State::Deflate(decoder)) => {
                let (read, written) = (decoder.total_in(), decoder.total_out());
                let status = decoder.decompress(input, scratch, FlushDecompress::Sync);
                self.ended = status.map_err(|error| error.to_string())? == Status::StreamEnd;
                (
                    length(decoder.total_in() - read),
                    length(decoder.total_out() - written),
                )
            }
            Some(State::Brotli(decoder, _)) => {
                let (mut left, mut read) = (input.len(), 0);
                let (mut room, mut written, mut total) = (scratch.len(), 0, 0);
                let result = BrotliDecompressStream(
                    &mut left,
                    &mut read,
                    input,
                    &mut room,
                    &mut written,
                    scratch,
                    &mut total,
                    decoder,
                );
                match result {
                    BrotliResult::ResultSuccess => self.ended = true,
                    BrotliResult::ResultFailure => return Err("it is not a brotli stream".to_owned()),
                    BrotliResult::NeedsMoreInput | BrotliResult::NeedsMoreOutput => {}
                }
                (read, written)
            }
            Some(State::Zstd(context)) => {
                let (mut input, mut room) = (InBuffer::around(input), OutBuffer::around(scratch));
                let left = context.decompress_stream(&mut room, &mut input);
                let left = left.map_err(|code| get_error_name(code).to_owned())?;
                self.ended = left == 0 && input.pos() == self.input.len();
                self.filled = room.pos() == STEP_BYTES;
                (input.pos(), room.pos())
            }
        };
        let decoded = self.scratch.get(..written).unwrap_or_default();
        let decoded = Bytes::copy_from_slice(decoded);
        self.consume(read);
        Ok(decoded)
    }

    fn consume(&mut self, read: usize) {
        drop(self.input.split_to(read.min(self.input.len())));
    }

    fn failed(&self, reason: &str) -> BackendError {
        BackendError::Invalid(format!(
            "its Content-Encoding is {}, which was not asked for, and cannot be decoded: {reason}",
            self.coding
        ))
    }
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
            Self::Brotli => "br",
            Self::Zstd => "zstd",
        })
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn unknown(found: &HeaderValue) -> BackendError {
    let found = String::from_utf8_lossy(found.as_bytes());
    let found = truncate::head(&found, 100);
    BackendError::Invalid(format!(
        "its Content-Encoding is {found:?}, which was not asked for and is not known; known are gzip, deflate, br and zstd, one at a time"
    ))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
    use std::io::Write as _;

    use super::*;

    fn decoder(encoding: &str, account: &Account) -> Decoder {
        let mut headers = HeaderMap::new();
        headers.insert(http::header::CONTENT_ENCODING, encoding.parse().unwrap());
        Decoder::of(&headers, account).unwrap().unwrap()
    }

    fn account() -> Account {
        Account::root(usize::MAX)
    }

    /// Decodes `body`, received in pieces of `piece` bytes.
    fn decode(encoding: &str, body: &[u8], piece: usize) -> Result<Vec<u8>, BackendError> {
        let (mut decoder, mut decoded) = (decoder(encoding, &account()), Vec::new());
        for piece in body.chunks(piece) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(bytes) = decoder.next()? {
                assert!(bytes.len() <= 4 * STEP_BYTES, "{} at a time", bytes.len());
                decoded.extend_from_slice(&bytes);
            }
        }
        decoder.finish()?;
        Ok(decoded)
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(text: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn raw_deflate(text: &[u8]) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; zstd_safe::compress_bound(text.len())];
        let length = zstd_safe::compress(frame.as_mut_slice(), text, 3).unwrap();
        frame.truncate(length);
        frame
    }

    /// Encodes `text` as uncompressed brotli, which needs no encoder (RFC 7932, 9.2). `window` is WBITS with its number of bits: (0, 1) for
    /// 64 KiB, (15, 4) for 16 MiB.
    fn brotli(text: &[u8], (window, bits): (u64, usize)) -> Vec<u8> {
        let mut stream = Vec::new();
        // WBITS; then for each block: ISLAST 0, MNIBBLES 4, MLEN - 1 in 16 bits, ISUNCOMPRESSED 1.
        let mut first = true;
        for block in text.chunks(1 << 16) {
            let mut header = (block.len() as u64 - 1) << 3 | 1 << 19;
            if first {
                header = header << bits | window;
            }
            let length = if first { 20 + bits } else { 20 };
            first = false;
            stream.extend_from_slice(&header.to_le_bytes()[..usize::div_ceil(length, 8)]);
            stream.extend_from_slice(block);
        }
        stream.push(0x03); // ISLAST, ISLASTEMPTY
        stream
    }

    fn text() -> Vec<u8> {
        (0..20_000_u32)
            .flat_map(|number| number.to_string().into_bytes())
            .collect()
    }

    #[test]
    fn body_is_decoded_in_pieces_of_any_size() {
        let text = text();
        for (encoding, body) in [
            ("gzip", gzip(&text)),
            ("x-gzip", gzip(&text)),
            ("GZip", [gzip(&text[..1000]), gzip(&text[1000..])].concat()),
            ("deflate", zlib(&text)),
            ("deflate", raw_deflate(&text)),
            ("zstd", zstd(&text)),
            ("zstd", [zstd(&text[..1000]), zstd(&text[1000..])].concat()),
            ("br", brotli(&text, (0, 1))),
        ] {
            for piece in [1, 7, 1000, body.len()] {
                assert!(
                    decode(encoding, &body, piece).unwrap() == text,
                    "{encoding} by {piece}"
                );
            }
            let cut = decode(encoding, &body[..body.len() - 1], 1000).unwrap_err();
            assert!(cut.to_string().contains("cut short"), "{encoding}: {cut}");
        }
    }

    #[test]
    fn flushed_bytes_are_decoded_at_once() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(b"data: 1\n\n").unwrap();
        encoder.flush().unwrap();
        let mut decoder = decoder("gzip", &account());
        decoder.push(Bytes::copy_from_slice(encoder.get_ref()));
        let mut decoded = Vec::new();
        while let Some(bytes) = decoder.next().unwrap() {
            decoded.extend_from_slice(&bytes);
        }
        assert_eq!(decoded, b"data: 1\n\n");
    }

    #[test]
    fn decoder_may_be_polled_repeatedly_without_input() {
        let text = text();
        for (encoding, body) in [
            ("gzip", gzip(&text)),
            ("deflate", zlib(&text)),
            ("br", brotli(&text, (0, 1))),
            ("zstd", zstd(&text)),
        ] {
            let (mut decoder, mut decoded) = (decoder(encoding, &account()), Vec::new());
            for piece in body.chunks(body.len() / 3) {
                decoder.push(Bytes::copy_from_slice(piece));
                while let Some(bytes) = decoder.next().unwrap() {
                    decoded.extend_from_slice(&bytes);
                }
                for _ in 0..40 {
                    assert_eq!(decoder.next().unwrap(), None, "{encoding}");
                }
            }
            decoder.finish().unwrap();
            assert!(decoded == text, "{encoding}");
        }
    }

    #[test]
    fn garbage_and_unknown_encodings_are_named() {
        for encoding in ["gzip", "deflate", "br", "zstd"] {
            let error = decode(encoding, &[0xff; 64], 64).unwrap_err().to_string();
            assert!(
                error.contains(&format!("its Content-Encoding is {encoding}")),
                "{error}"
            );
        }
        for encoding in ["compress", "gzip, br", "a\u{20}b"] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_ENCODING, encoding.parse().unwrap());
            let error = Decoder::of(&headers, &account()).unwrap_err().to_string();
            assert!(
                error.contains("Content-Encoding") && error.contains(encoding),
                "{error}"
            );
        }
        for encoding in ["identity", "Identity", ""] {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::CONTENT_ENCODING, encoding.parse().unwrap());
            assert!(Decoder::of(&headers, &account()).unwrap().is_none());
        }
    }

    /// Peak of the reserved bytes while `body` is decoded with the budget `limit`.
    fn counted(encoding: &str, body: &[u8], limit: usize) -> Result<usize, BackendError> {
        let account = Account::root(limit);
        let (mut decoder, mut peak) = (decoder(encoding, &account), 0);
        // In small pieces, because a finished decoder has released its memory.
        for piece in body.chunks(7) {
            decoder.push(Bytes::copy_from_slice(piece));
            while decoder.next()?.is_some() {}
            peak = peak.max(account.reserved());
        }
        decoder.finish()?;
        drop(decoder);
        assert_eq!(account.reserved(), 0, "{encoding}");
        Ok(peak)
    }

    const KIB: usize = 1024;
    const MIB: usize = 1024 * KIB;

    /// Encodes `text` as an uncompressed zstd frame with a window of 8 MiB (RFC 8878, 3.1.1).
    fn zstd_of_large_window(text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 13 << 3];
        for block in text.chunks(128 * KIB) {
            frame.extend_from_slice(&(block.len() << 3).to_le_bytes()[..3]);
            frame.extend_from_slice(block);
        }
        frame.extend_from_slice(&[1, 0, 0]);
        frame
    }

    #[test]
    fn window_is_counted_as_the_body_demands_it() {
        // A brotli decoder allocates its window as input arrives.
        let (text, long) = (vec![b'x'; 100], vec![b'x'; 100_000]);
        for (encoding, body, least, most) in [
            ("gzip", gzip(&text), 32 * KIB, 256 * KIB),
            ("deflate", zlib(&text), 32 * KIB, 256 * KIB),
            ("zstd", zstd(&text), 32 * KIB, 512 * KIB),
            ("zstd", zstd_of_large_window(&text), 8 * MIB, 9 * MIB),
            // The second frame needs more than the first.
            (
                "zstd",
                [zstd(&text), zstd_of_large_window(&text)].concat(),
                8 * MIB,
                9 * MIB,
            ),
            ("br", brotli(&long, (0, 1)), 64 * KIB, 512 * KIB),
            ("br", brotli(&long, (0b1111, 4)), 128 * KIB, 512 * KIB),
        ] {
            let peak = counted(encoding, &body, usize::MAX).unwrap();
            assert!((least..=most).contains(&peak), "{encoding}: {peak}");
            let refused = counted(encoding, &body, peak - 1).unwrap_err();
            assert_eq!(refused, BackendError::NoRoom(peak - 1), "{encoding}");
            assert_eq!(counted(encoding, &body, peak), Ok(peak), "{encoding}");
        }
    }

    #[test]
    fn zstd_window_beyond_8_mib_is_refused() {
        // A frame header (RFC 8878, 3.1.1) with a window descriptor for 16 MiB, and a raw block of one byte.
        let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 14 << 3, 0x09, 0x00, 0x00, b'x'];
        let error = decode("zstd", &frame, 64).unwrap_err().to_string();
        assert!(error.contains("Content-Encoding is zstd"), "{error}");
    }
}
