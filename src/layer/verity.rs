//! The fs-verity digest of a file, asked from the kernel or computed
//! ([fsverity](https://docs.kernel.org/filesystems/fsverity.html)).

use std::os::fd::BorrowedFd;

use sha2::{Sha256, Sha512};

use crate::base::{Errno, Result};
use crate::format::metacopy::{Algorithm, Digest};
use crate::sys::data::pread_full;
use crate::sys::verity::measure;

/// The file and the tree of hashes above it are cut into blocks of this size, the only one that every kernel has.
const BLOCK: usize = 4096;
const LOG_BLOCK: u8 = 12;

/// Bytes that are read at once.
const READ: usize = 32 * BLOCK;

/// Whether the first `size` bytes of a file, which should be all of it, have this digest. The kernel tells the digest
/// of a file with fs-verity; any other file is read.
///
/// A digest of the kernel by another algorithm does not match, as with the kernel's OverlayFS.
///
/// # Errors
/// `EBADF` for a descriptor that cannot be read, `EIO` also for a file that is shorter.
pub fn check(fd: BorrowedFd<'_>, size: u64, want: &Digest) -> Result<bool> {
    match measure(fd)? {
        Some((algorithm, bytes)) => Ok(algorithm == u16::from(want.algorithm.number()) && bytes == want.bytes),
        None => Ok(digest(fd, size, want.algorithm)? == want.bytes),
    }
}

/// The digest that the kernel has of a file with fs-verity; `None` for another file.
///
/// # Errors
/// `EBADF`, `EIO`
pub fn measured(fd: BorrowedFd<'_>) -> Result<Option<Digest>> {
    let known = |(number, bytes): (u16, Vec<u8>)| {
        let algorithm = Algorithm::from_number(u8::try_from(number).ok()?)?;
        Some(Digest { algorithm, bytes })
    };
    Ok(measure(fd)?.and_then(known))
}

/// Computes the digest that the first `size` bytes of a file have under fs-verity without salt. All of them are read,
/// and only a few are in memory at a time.
///
/// # Errors
/// `EBADF` for a descriptor that cannot be read, `EIO` also for a file that is shorter.
pub fn digest(fd: BorrowedFd<'_>, size: u64, algorithm: Algorithm) -> Result<Vec<u8>> {
    let root = match algorithm {
        Algorithm::Sha256 => root::<Sha256>(fd, size)?,
        Algorithm::Sha512 => root::<Sha512>(fd, size)?,
    };
    let descriptor = descriptor(&root, size, algorithm);
    Ok(match algorithm {
        Algorithm::Sha256 => hash::<Sha256>(&descriptor),
        Algorithm::Sha512 => hash::<Sha512>(&descriptor),
    })
}

/// `struct fsverity_descriptor` without a salt and a signature.
fn descriptor(root: &[u8], size: u64, algorithm: Algorithm) -> [u8; 256] {
    const VERSION: u8 = 1;
    let mut bytes = [0; 256];
    let fields = [&[VERSION, algorithm.number(), LOG_BLOCK, 0, 0, 0, 0, 0], &size.to_le_bytes()[..], root].concat();
    bytes.iter_mut().zip(fields).for_each(|(to, byte)| *to = byte);
    bytes
}

/// The hash at the root of the tree; an empty file has an empty one.
fn root<H: sha2::Digest>(fd: BorrowedFd<'_>, size: u64) -> Result<Vec<u8>> {
    let mut tree = Tree::default();
    let mut buffer = vec![0; READ];
    let mut offset = 0;
    while offset < size {
        let count = usize::try_from(size - offset).map_or(READ, |rest| rest.min(READ));
        buffer.resize(count, 0);
        if pread_full(fd, &mut buffer, offset)? < count {
            return Err(Errno::EIO);
        }
        // The last block is hashed with zeros behind its data.
        buffer.resize(count.next_multiple_of(BLOCK), 0);
        buffer.chunks_exact(BLOCK).for_each(|block| tree.add::<H>(0, hash::<H>(block)));
        offset += count as u64;
    }
    Ok(tree.finish::<H>())
}

fn hash<H: sha2::Digest>(bytes: &[u8]) -> Vec<u8> {
    H::digest(bytes).to_vec()
}

/// The tree as it grows: the last block of each level, which is never full.
#[derive(Default)]
struct Tree {
    levels: Vec<Vec<u8>>,
}

impl Tree {
    /// Adds the hash of a block of the level below.
    fn add<H: sha2::Digest>(&mut self, level: usize, hash_below: Vec<u8>) {
        if level == self.levels.len() {
            self.levels.push(Vec::with_capacity(BLOCK));
        }
        let Some(block) = self.levels.get_mut(level) else { return };
        block.extend(hash_below);
        if block.len() == BLOCK {
            self.close::<H>(level);
        }
    }

    /// Hashes a level's last block, with zeros behind what is in it, into the level above.
    fn close<H: sha2::Digest>(&mut self, level: usize) {
        let Some(block) = self.levels.get_mut(level) else { return };
        block.resize(BLOCK, 0);
        let hash_above = hash::<H>(block);
        block.clear();
        self.add::<H>(level + 1, hash_above);
    }

    /// Ends the tree, and returns its root hash.
    fn finish<H: sha2::Digest>(mut self) -> Vec<u8> {
        let mut level = 0;
        while let Some(block) = self.levels.get(level) {
            let is_top = level + 1 == self.levels.len();
            if is_top && block.len() == <H as sha2::Digest>::output_size() {
                return self.levels.swap_remove(level);
            }
            if !block.is_empty() {
                self.close::<H>(level);
            }
            level += 1;
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;

    /// A file of that many bytes, none of them the same as the one a block before.
    fn file(size: usize) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8 ^ (at / BLOCK) as u8).collect();
        std::fs::write(&file, bytes).unwrap();
        file
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn ours(file: &File, size: usize, algorithm: Algorithm) -> String {
        hex(&digest(file.as_fd(), size as u64, algorithm).unwrap())
    }

    /// What the program of fsverity-utils says; `None` where there is none.
    fn theirs(file: &std::path::Path, algorithm: Algorithm) -> Option<String> {
        let name = match algorithm {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        };
        let arguments = ["digest", "--compact", "--hash-alg", name];
        let output = Command::new("fsverity").args(arguments).arg(file).output().ok()?;
        assert!(output.status.success(), "{output:?}");
        Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    #[test]
    fn digests_are_those_of_fsverity_utils() {
        let sizes = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 64 * BLOCK + 1, 128 * BLOCK, 128 * BLOCK + 1, 3 << 20 | 5];
        for size in sizes {
            let file = file(size);
            for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
                let Some(expected) = theirs(file.path(), algorithm) else {
                    return eprintln!("SKIPPED: no program fsverity (package fsverity) to compare with");
                };
                assert_eq!(ours(file.as_file(), size, algorithm), expected, "{size} {algorithm:?}");
            }
        }
    }

    /// Written down from that program.
    #[test]
    fn known_digests_are_met() {
        use Algorithm::{Sha256, Sha512};
        for (size, algorithm, expected) in [
            (0, Sha256, "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),
            (1, Sha256, "b803429503d95915829b29fdbc8bbad142f3abfd11b1cadf5526582e685c0551"),
            (BLOCK + 1, Sha256, "b47263cdff0afe4e619340b9ebd17e09a4ac62d17a121481d139d02a8fe2baca"),
            (3 << 20 | 5, Sha256, "fb1d870acf41e7aae5834f58eff75b0a309cf7fba0b3822ca4e648eec3c64432"),
            (
                BLOCK + 1,
                Sha512,
                "8eb966263c2ee027a31fcf8fd20ee783c37d8f029e6e0021bcd59da416fabd40\
                 f21b0242c8b92cca0930b67bd46aa6eacb162802880c8a5ff2c5d92b37e51697",
            ),
            // Three levels above the data.
            (
                64 * 64 * BLOCK + 1,
                Sha512,
                "d1a39b352c863524732f70cbc149827d688ee42d09c653c60846a8f37eae8a5e\
                 9484f9d02ec0f322bf0ffaf61a8106ff83fcb3101602d8a3b21411c6127f0bb9",
            ),
        ] {
            assert_eq!(ours(file(size).as_file(), size, algorithm), expected, "{size} {algorithm:?}");
        }
    }

    #[test]
    fn a_file_that_is_shorter_than_it_should_be_has_no_digest() {
        let file = file(BLOCK);
        let size = BLOCK as u64 + 1;
        assert_eq!(digest(file.as_file().as_fd(), size, Algorithm::Sha256), Err(Errno::EIO));
    }

    #[test]
    fn a_changed_byte_or_another_algorithm_is_another_digest() {
        let (file, size) = (file(BLOCK + 1), BLOCK as u64 + 1);
        let fd = file.as_file().as_fd();
        let bytes = digest(fd, size, Algorithm::Sha256).unwrap();
        let want = Digest { algorithm: Algorithm::Sha256, bytes };
        assert_eq!(check(fd, size, &want), Ok(true));
        assert_eq!(check(fd, size, &Digest { algorithm: Algorithm::Sha512, ..want.clone() }), Ok(false));
        assert_eq!(check(fd, size - 1, &want), Ok(false));
        crate::sys::pwrite_all(file.as_file().as_fd(), b"!", BLOCK as u64).unwrap();
        assert_eq!(check(fd, size, &want), Ok(false));
    }
}
