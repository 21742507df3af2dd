//! What an archive goes through: digests, and compression by all processors.
//!
//! The stream is cut into chunks of one size, each of which is compressed by itself, so that the bytes that come out do not
//! depend on how many threads there are. At most a few chunks are in memory for each thread.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use flate2::{Compress, Crc, FlushCompress, Status};
use sha2::{Digest as _, Sha256};
use zstd::bulk::Compressor;

use crate::base::Errno;
use crate::sys::data::write_out;

/// The size of a chunk in bytes.
const CHUNK: usize = 1 << 20;
/// Bytes that are written at once where there are no chunks.
const PLAIN: usize = 1 << 17;
/// Bytes that begin their way to the disk at once.
const STRETCH: u64 = 16 << 20;
/// More threads than this would take more memory than they are worth.
const MOST_THREADS: usize = 8;
/// A gzip header without a name and a time ([RFC 1952](https://www.rfc-editor.org/rfc/rfc1952)); 255: an unknown system.
const GZIP: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block of a deflate stream, which is empty.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, in one member.
    Gzip,
    /// zstd, a frame for each chunk.
    Zstd,
}

/// What went through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Squeezed {
    /// `None`: nobody asked for them.
    pub digests: Option<Digests>,
    /// Bytes that came in.
    pub plain_size: u64,
    /// Bytes that went out.
    pub size: u64,
}

/// The SHA-256 of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Of what came in: the diff-id of a layer.
    pub plain: [u8; 32],
    /// Of what went out.
    pub stored: [u8; 32],
}

/// A digest as text.
pub fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A chunk as it goes out.
struct Done {
    bytes: Vec<u8>,
    crc: Crc,
}

/// Takes an archive, and writes it compressed.
pub struct Squeeze(Way);

enum Way {
    /// As it is, without a digest: there is nothing to be done for other threads.
    Plain {
        out: BufWriter<Box<dyn Write + Send>>,
        size: u64,
    },
    Chunks(Chunks),
}

impl Squeeze {
    /// Goes to `out`, which is flushed at the end. `digests`: they are asked for.
    ///
    /// # Errors
    /// There can be no more threads.
    pub fn new(out: impl Write + Send + 'static, how: Compression, digests: bool) -> io::Result<Self> {
        if how == Compression::None && !digests {
            return Ok(Self(Way::Plain { out: BufWriter::with_capacity(PLAIN, Box::new(out)), size: 0 }));
        }
        Chunks::new(out, how).map(Way::Chunks).map(Self)
    }

    /// Waits until all is written.
    ///
    /// # Errors
    /// What the output says.
    pub fn finish(self) -> io::Result<Squeezed> {
        match self.0 {
            Way::Plain { mut out, size } => {
                out.flush()?;
                Ok(Squeezed { digests: None, plain_size: size, size })
            }
            Way::Chunks(chunks) => chunks.finish(),
        }
    }
}

impl Write for Squeeze {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Way::Plain { out, size } => {
                let len = out.write(bytes)?;
                *size += len as u64;
                Ok(len)
            }
            Way::Chunks(chunks) => chunks.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An archive that is cut into chunks.
struct Chunks {
    chunk: Vec<u8>,
    /// One for each thread, which take turns.
    to: Vec<SyncSender<Vec<u8>>>,
    turn: usize,
    how: Compression,
    /// Of what is not compressed the writer has the digest.
    plain: Option<Sha256>,
    plain_size: u64,
    writer: JoinHandle<io::Result<([u8; 32], u64)>>,
}

impl Chunks {
    fn new(out: impl Write + Send + 'static, how: Compression) -> io::Result<Self> {
        let threads = if how == Compression::None { 1 } else { thread::available_parallelism()?.get() };
        let (mut to, mut from) = (Vec::new(), Vec::new());
        for _ in 0..threads.min(MOST_THREADS) {
            let (sender, chunks) = sync_channel::<Vec<u8>>(1);
            let (done, receiver) = sync_channel(1);
            thread::Builder::new().spawn(move || work(how, &chunks, &done))?;
            to.push(sender);
            from.push(receiver);
        }
        let writer = thread::Builder::new().spawn(move || write(out, how, &from))?;
        let chunk = Vec::with_capacity(CHUNK);
        let plain = (how != Compression::None).then(Sha256::new);
        Ok(Self { chunk, to, turn: 0, how, plain, plain_size: 0, writer })
    }

    fn send(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK));
        let to = self.to.get(self.turn % self.to.len()).ok_or(io::ErrorKind::BrokenPipe)?;
        self.turn += 1;
        // The writer has ended, and `finish` tells why.
        to.send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn finish(mut self) -> io::Result<Squeezed> {
        // Without a frame it would be no zstd file.
        let has_none = self.how == Compression::Zstd && self.turn == 0;
        if !self.chunk.is_empty() || has_none {
            // What is wrong the writer tells.
            let _ = self.send();
        }
        drop(std::mem::take(&mut self.to));
        let (stored, size) = self.writer.join().map_err(|_| io::Error::other("a thread has ended"))??;
        let plain = self.plain.map_or(stored, |plain| plain.finalize().into());
        Ok(Squeezed { digests: Some(Digests { plain, stored }), plain_size: self.plain_size, size })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(CHUNK - self.chunk.len());
        let taken = bytes.get(..len).unwrap_or_default();
        if let Some(plain) = &mut self.plain {
            plain.update(taken);
        }
        self.plain_size += len as u64;
        self.chunk.extend_from_slice(taken);
        if self.chunk.len() == CHUNK {
            self.send()?;
        }
        Ok(len)
    }
}

/// A file whose bytes are on their way to the disk while more are written: who syncs it at the end does not wait for all.
pub struct OnItsWay {
    file: File,
    /// Bytes that were written, and how many of them are on their way.
    written: u64,
    begun: u64,
}

impl OnItsWay {
    /// Of an empty file.
    pub fn new(file: File) -> Self {
        Self { file, written: 0, begun: 0 }
    }
}

impl Write for OnItsWay {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.file.write(bytes)?;
        self.written += len as u64;
        if self.written - self.begun >= STRETCH {
            match write_out(self.file.as_fd(), self.begun, self.written - self.begun, false) {
                // The sync does it.
                Err(Errno::EOPNOTSUPP) => {}
                begun => begun?,
            }
            self.begun = self.written;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses chunk after chunk.
fn work(how: Compression, chunks: &Receiver<Vec<u8>>, done: &SyncSender<io::Result<Done>>) {
    let mut deflate = Compress::new(flate2::Compression::default(), false);
    let mut zstd = None;
    for chunk in chunks {
        let mut crc = Crc::new();
        let bytes = match how {
            Compression::None => Ok(chunk),
            Compression::Gzip => {
                crc.update(&chunk);
                deflated(&mut deflate, &chunk)
            }
            Compression::Zstd => framed(&mut zstd, &chunk),
        };
        if done.send(bytes.map(|bytes| Done { bytes, crc })).is_err() {
            return;
        }
    }
}

/// A chunk as blocks of a deflate stream that end at a byte.
fn deflated(deflate: &mut Compress, chunk: &[u8]) -> io::Result<Vec<u8>> {
    deflate.reset();
    let mut bytes = Vec::with_capacity(chunk.len() / 2 + 1024);
    loop {
        let rest = usize::try_from(deflate.total_in()).ok().and_then(|done| chunk.get(done..)).unwrap_or_default();
        let status = deflate.compress_vec(rest, &mut bytes, FlushCompress::Sync).map_err(io::Error::other)?;
        let is_all = deflate.total_in() == chunk.len() as u64;
        match status {
            // There was room left: all of it is out.
            _ if is_all && bytes.len() < bytes.capacity() => return Ok(bytes),
            Status::StreamEnd => return Err(io::Error::other("the compression has ended early")),
            Status::Ok | Status::BufError => bytes.reserve(chunk.len() / 4 + 1024),
        }
    }
}

/// A chunk as a frame.
fn framed(zstd: &mut Option<Compressor<'static>>, chunk: &[u8]) -> io::Result<Vec<u8>> {
    let zstd = match zstd {
        Some(zstd) => zstd,
        None => zstd.insert(Compressor::new(zstd::DEFAULT_COMPRESSION_LEVEL)?),
    };
    zstd.compress(chunk)
}

/// Writes the chunks in their order.
fn write(out: impl Write, how: Compression, from: &[Receiver<io::Result<Done>>]) -> io::Result<([u8; 32], u64)> {
    let mut out = Counted { out, sum: Sha256::new(), size: 0 };
    let mut crc = Crc::new();
    if how == Compression::Gzip {
        out.write(&GZIP)?;
    }
    // The first one without a chunk is the end, as the threads take turns.
    for done in from.iter().cycle().map_while(|from| from.recv().ok()) {
        let Done { bytes, crc: of_chunk } = done?;
        out.write(&bytes)?;
        crc.combine(&of_chunk);
    }
    if how == Compression::Gzip {
        out.write(&LAST_BLOCK)?;
        out.write(&crc.sum().to_le_bytes())?;
        out.write(&crc.amount().to_le_bytes())?;
    }
    out.out.flush()?;
    Ok((out.sum.finalize().into(), out.size))
}

struct Counted<W> {
    out: W,
    sum: Sha256,
    size: u64,
}

impl<W: Write> Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.size += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn unpacked(how: Compression, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        match how {
            Compression::None => plain.extend_from_slice(bytes),
            Compression::Gzip => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap()),
            Compression::Zstd => plain = zstd::decode_all(bytes).unwrap(),
        }
        plain
    }

    #[test]
    fn what_goes_in_comes_out_again() {
        let noise = |len: usize| {
            let mut state = 1_u32;
            let mut next = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            };
            (0..len).map(|_| next()).collect::<Vec<u8>>()
        };
        let text =
            |len: usize| b"what goes in comes out again\n".iter().copied().cycle().take(len).collect::<Vec<u8>>();
        for how in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for plain in
                [vec![], text(1), noise(100), text(CHUNK), noise(CHUNK + 1), text(5 * CHUNK + 7), vec![0; 3 * CHUNK]]
            {
                let out = Shared::default();
                let mut squeeze = Squeeze::new(out.clone(), how, true).unwrap();
                squeeze.write_all(&plain).unwrap();
                let squeezed = squeeze.finish().unwrap();
                let bytes = out.0.lock().unwrap().clone();
                assert!(unpacked(how, &bytes) == plain, "{how:?} {}", plain.len());
                let digests = Digests { plain: Sha256::digest(&plain).into(), stored: Sha256::digest(&bytes).into() };
                let (plain_size, size) = (plain.len() as u64, bytes.len() as u64);
                assert_eq!(squeezed, Squeezed { digests: Some(digests), plain_size, size });
                let again = Shared::default();
                let mut squeeze = Squeeze::new(again.clone(), how, false).unwrap();
                squeeze.write_all(&plain).unwrap();
                let squeezed = squeeze.finish().unwrap();
                assert!(*again.0.lock().unwrap() == bytes, "{how:?} {}", plain.len());
                assert_eq!((squeezed.plain_size, squeezed.size), (plain_size, size));
            }
        }
    }

    #[test]
    fn what_the_output_says_is_told() {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut squeeze = Squeeze::new(full, Compression::None, true).unwrap();
        let _ = squeeze.write_all(&vec![1; 9 * CHUNK]);
        assert_eq!(squeeze.finish().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    }
}
