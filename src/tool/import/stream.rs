//! What an archive comes through: its compression is known by its first bytes, and what goes by is counted and digested.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flate2::bufread::MultiGzDecoder;
use sha2::{Digest as _, Sha256};
use zstd::stream::read::Decoder;

/// The first bytes of what is compressed.
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Bytes that are read at once.
const ROOM: usize = 1 << 17;

/// How many bytes all layers together may still have.
#[derive(Clone)]
pub(super) struct Room(Option<Arc<AtomicU64>>);

impl Room {
    pub fn new(most: Option<u64>) -> Self {
        Self(most.map(|most| Arc::new(AtomicU64::new(most))))
    }

    /// Takes room for so many bytes.
    ///
    /// # Errors
    /// There is not so much.
    pub fn take(&self, bytes: u64) -> io::Result<()> {
        let Some(left) = &self.0 else { return Ok(()) };
        let took = left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes));
        took.map(drop).map_err(|_| io::Error::other("what is unpacked is more than --max"))
    }
}

/// Digests what is read.
pub(super) struct Summed<R> {
    inner: R,
    sum: Sha256,
}

impl<R: Read> Summed<R> {
    fn new(inner: R) -> Self {
        Self { inner, sum: Sha256::new() }
    }

    fn digest(self) -> [u8; 32] {
        self.sum.finalize().into()
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.sum.update(buffer.get(..len).unwrap_or_default());
        Ok(len)
    }
}

type Input = BufReader<Summed<Box<dyn Read + Send>>>;

/// The plain bytes of a layer.
pub(super) struct Stream {
    from: Kind,
    room: Room,
}

enum Kind {
    /// Its plain bytes are those that come in.
    Plain(Input),
    Gzip(Box<Summed<MultiGzDecoder<Input>>>),
    Zstd(Box<Summed<Decoder<'static, Input>>>),
}

impl Stream {
    /// # Errors
    /// What reading says.
    pub fn new(from: Box<dyn Read + Send>, room: Room) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(ROOM, Summed::new(from));
        let begin = input.fill_buf()?;
        let kind = if begin.starts_with(&GZIP) {
            Kind::Gzip(Box::new(Summed::new(MultiGzDecoder::new(input))))
        } else if begin.starts_with(&ZSTD) {
            Kind::Zstd(Box::new(Summed::new(Decoder::with_buffer(input)?)))
        } else {
            Kind::Plain(input)
        };
        Ok(Self { from: kind, room })
    }

    /// Reads to the end; the digests of the plain bytes, and of those that came in.
    ///
    /// # Errors
    /// What reading says.
    pub fn finish(mut self) -> io::Result<([u8; 32], [u8; 32])> {
        io::copy(&mut self, &mut io::sink())?;
        let (mut input, plain) = match self.from {
            Kind::Plain(input) => (input, None),
            Kind::Gzip(summed) => (summed.inner.into_inner(), Some(summed.sum)),
            Kind::Zstd(summed) => (summed.inner.finish(), Some(summed.sum)),
        };
        io::copy(&mut input, &mut io::sink())?;
        let stored = input.into_inner().digest();
        Ok((plain.map_or(stored, |sum| sum.finalize().into()), stored))
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.from.read(buffer)?;
        self.room.take(len as u64)?;
        Ok(len)
    }
}

impl Read for Kind {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(input) => input.read(buffer),
            Self::Gzip(gzip) => gzip.read(buffer),
            Self::Zstd(zstd) => zstd.read(buffer),
        }
    }
}
