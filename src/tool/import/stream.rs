//! What an archive comes through: its compression is known by its first bytes, and what goes by is counted and digested.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use sha2::{Digest as _, Sha256};

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
    from: Summed<Kind>,
    room: Room,
}

enum Kind {
    Plain(Input),
    Gzip(Box<MultiGzDecoder<Input>>),
    Zstd(Box<Frames>),
}

impl Stream {
    /// # Errors
    /// What reading says.
    pub fn new(from: Box<dyn Read + Send>, room: Room) -> io::Result<Self> {
        let mut input = BufReader::with_capacity(ROOM, Summed::new(from));
        let begin = input.fill_buf()?;
        let kind = if begin.starts_with(&GZIP) {
            Kind::Gzip(Box::new(MultiGzDecoder::new(input)))
        } else if begin.starts_with(&ZSTD) {
            Kind::Zstd(Box::new(Frames { input, decoder: FrameDecoder::new(), in_frame: false }))
        } else {
            Kind::Plain(input)
        };
        Ok(Self { from: Summed::new(kind), room })
    }

    /// Reads to the end; the digests of the plain bytes, and of those that came in.
    ///
    /// # Errors
    /// What reading says.
    pub fn finish(mut self) -> io::Result<([u8; 32], [u8; 32])> {
        io::copy(&mut self, &mut io::sink())?;
        let Summed { inner, sum } = self.from;
        let mut input = match inner {
            Kind::Plain(input) => input,
            Kind::Gzip(gzip) => gzip.into_inner(),
            Kind::Zstd(frames) => frames.input,
        };
        io::copy(&mut input, &mut io::sink())?;
        Ok((sum.finalize().into(), input.into_inner().digest()))
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
            Self::Zstd(frames) => frames.read(buffer),
        }
    }
}

/// The frames of a zstd file, one after the other.
struct Frames {
    input: Input,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.in_frame {
                while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                    let one = BlockDecodingStrategy::UptoBlocks(1);
                    self.decoder.decode_blocks(&mut self.input, one).map_err(io::Error::other)?;
                }
                let len = self.decoder.read(buffer)?;
                if len > 0 || buffer.is_empty() {
                    return Ok(len);
                }
                self.in_frame = false;
            }
            if self.input.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.reset(&mut self.input) {
                Ok(()) => self.in_frame = true,
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut (&mut self.input).take(length.into()), &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}
