//! Names for temporary objects that nobody else uses.

use std::ffi::CString;
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::rand::{GetRandomFlags, getrandom};

use super::seam::{self, Call};
use crate::base::{Errno, Result};

/// `N` random bytes, at most 256 ([getrandom(2)](https://man7.org/linux/man-pages/man2/getrandom.2.html)).
///
/// # Errors
/// `ENOSYS` before Linux 3.17; `EIO` for fewer bytes than asked for.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    seam::enter(Call::Random)?;
    random()
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    loop {
        match getrandom(&mut bytes, GetRandomFlags::empty()) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(count) if count < N => return Err(Errno::EIO),
            result => return Ok(result.map(|_| bytes)?),
        }
    }
}

/// What [`temp_name`] gave last; 0 before the first one.
static LAST: AtomicU64 = AtomicU64::new(0);

/// A forked process gives other names than the one that it was forked by.
pub(super) fn begin_anew() {
    LAST.store(0, Ordering::Relaxed);
}

/// A name for something temporary: `prefix` and 64 bits in hexadecimal, which begin at random in each process and take all
/// values before one comes again.
///
/// # Errors
/// Those of [`random_bytes`]; `EINVAL` if `prefix` holds a NUL.
pub fn temp_name(prefix: &str) -> Result<CString> {
    /// Odd, and as far from all simple fractions of the whole as can be.
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    seam::enter(Call::Random)?;
    if LAST.load(Ordering::Relaxed) == 0 {
        // Where another thread was first its names go on.
        let _ = LAST.compare_exchange(0, u64::from_ne_bytes(random()?), Ordering::Relaxed, Ordering::Relaxed);
    }
    let bits = LAST.fetch_add(STEP, Ordering::Relaxed);
    let mut name = String::with_capacity(prefix.len() + 17);
    name.push_str(prefix);
    // Cannot fail: it is a String.
    let _ = write!(name, "{bits:016x}");
    CString::new(name).map_err(|_| Errno::EINVAL)
}

/// The id of this boot of the machine
/// ([proc_sys_kernel(5)](https://man7.org/linux/man-pages/man5/proc_sys_kernel.5.html), `random/boot_id`); zeros where
/// that cannot be read.
///
/// # Errors
/// Set by tests only.
pub fn boot_id() -> Result<[u8; 16]> {
    static BOOT: OnceLock<[u8; 16]> = OnceLock::new();
    seam::enter(Call::Random)?;
    let read = || {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
        u128::from_str_radix(&digits, 16).ok()
    };
    Ok(*BOOT.get_or_init(|| read().unwrap_or_default().to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_and_keep_their_prefix() {
        let (one, other) = (temp_name("#").unwrap(), temp_name("#").unwrap());
        assert_ne!(one, other);
        assert!(one.to_bytes().starts_with(b"#") && one.to_bytes().len() == 17);
        assert_eq!(temp_name("a\0b"), Err(Errno::EINVAL));
    }

    #[test]
    fn a_forked_process_does_not_go_on_with_the_names_of_its_parent() {
        /// How many steps of [`temp_name`] lead so far: its inverse modulo 2^64.
        const STEPS: u64 = 0xf1de_83e1_9937_733d;
        temp_name("").unwrap();
        let before = LAST.load(Ordering::Relaxed);
        begin_anew();
        temp_name("").unwrap();
        // Other tests take some meanwhile.
        let steps = LAST.load(Ordering::Relaxed).wrapping_sub(before).wrapping_mul(STEPS);
        assert!(steps > 1 << 32, "{steps}");
    }
}
