//! What file system a directory lies on, and whether that keeps the space that was allocated.

use std::fs::File;
use std::path::Path;

use rustix::fs::{IFlags, ioctl_getflags, statfs};

use crate::disk::Reserving;

/// A file system as statfs(2) numbers it, what it is called, and whether it writes in place what was
/// allocated and filled.
struct Known {
    number: u32,
    name: &'static str,
    reserves: bool,
}

const fn known(number: u32, name: &'static str, reserves: bool) -> Known {
    Known { number, name, reserves }
}

const BTRFS: u32 = 0x9123_683e;

/// Those that are not in the list are taken not to reserve.
const KNOWN: &[Known] = &[
    known(0x0000_ef53, "ext4", true),
    known(0x5846_5342, "xfs", true),
    known(0x3153_464a, "jfs", true),
    // Its blocks are memory, which it takes when they are filled.
    known(0x0102_1994, "tmpfs", true),
    known(BTRFS, "btrfs", false),
    known(0x2fc1_2fc1, "zfs", false),
    known(0xca45_1a4e, "bcachefs", false),
    known(0xf2f5_2010, "f2fs", false),
    // What lies below cannot be seen.
    known(0x794c_7630, "overlayfs", false),
    known(0x6573_5546, "fuse", false),
    known(0x0000_6969, "nfs", false),
    known(0xff53_4d42, "cifs", false),
    known(0xfe53_4d42, "smb2", false),
    known(0x0102_1997, "9p", false),
];

/// Of the directory, which exists.
pub(super) fn of(dir: &Path) -> Reserving {
    let Ok(stats) = statfs(dir) else { return Reserving::Not { file_system: "unknown".to_owned() } };
    // Systems differ in the width and the sign of the number.
    let number = stats.f_type as u32;
    if number == BTRFS && writes_in_place(dir) {
        return Reserving::Reserves;
    }
    match KNOWN.iter().find(|known| known.number == number) {
        Some(known) if known.reserves => Reserving::Reserves,
        Some(known) => Reserving::Not { file_system: known.name.to_owned() },
        None => Reserving::Not { file_system: format!("type {number:#x}") },
    }
}

/// New files inherit the attribute (`chattr +C`) from their directory.
fn writes_in_place(dir: &Path) -> bool {
    let flags = File::open(dir).ok().and_then(|dir| ioctl_getflags(&dir).ok());
    flags.is_some_and(|flags| flags.contains(IFlags::NOCOW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_itself_keeps_in_memory_is_not_taken_to_reserve() {
        let expected = Reserving::Not { file_system: "type 0x9fa0".to_owned() };
        assert_eq!(of(Path::new("/proc")), expected);
        let absent = Reserving::Not { file_system: "unknown".to_owned() };
        assert_eq!(of(Path::new("/nowhere/at/all")), absent);
    }

    #[test]
    fn no_file_system_is_known_twice() {
        let mut numbers: Vec<u32> = KNOWN.iter().map(|known| known.number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), KNOWN.len());
    }
}
