//! A small disk with a file system of its own, in a file: it can lose what was not synced, and it can get
//! full.
//!
//! What a program wrote and did not sync is in the page cache of the mounted file system, not in the file
//! behind it. A copy of that file, taken while the program stands still, is therefore what a disk holds after
//! the power went.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::broker::Broker;

/// The system may look into a file system for a moment after its last user has gone.
const UNMOUNT_SECONDS_MAX: u64 = 30;
const BALLAST: &str = "ballast";

/// A mounted file system; unmounted when dropped.
pub struct Volume {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl Volume {
    /// Makes an ext4 file system of `megabytes` in `folder` and mounts it there.
    ///
    /// # Errors
    /// Mounting takes root's rights and loop devices.
    pub fn new(folder: &Path, megabytes: u64) -> Result<Volume> {
        let (image, mounted_at) = (folder.join("disk.image"), folder.join("disk"));
        File::create(&image)?.set_len(megabytes << 20)?;
        let all_now = "lazy_itable_init=0,lazy_journal_init=0";
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-E", all_now]).arg(&image))?;
        fs::create_dir_all(&mounted_at)?;
        let volume = Volume { image, mounted_at };
        volume.mount()?;
        Ok(volume)
    }

    /// Whether this machine lets us make one.
    pub fn is_possible(folder: &Path) -> Result<bool> {
        fs::create_dir_all(folder)?;
        match Volume::new(folder, 16) {
            Ok(_mounted) => Ok(true),
            Err(error) => {
                println!("-- no file system of our own on this machine: {error:#}");
                Ok(false)
            }
        }
    }

    pub fn path(&self) -> &Path {
        &self.mounted_at
    }

    /// Ends the broker and everything that it wrote and did not sync, at one moment.
    pub fn cut_power(&self, broker: &mut Broker) -> Result<()> {
        broker.stand_still()?;
        let left = self.image.with_extension("left");
        run(Command::new("cp").arg("--sparse=always").arg(&self.image).arg(&left))?;
        broker.kill()?;
        self.unmount()?;
        fs::rename(&left, &self.image)?;
        self.mount()
    }

    /// Leaves no space to anybody.
    pub fn fill(&self) -> Result<()> {
        let mut ballast = File::create(self.mounted_at.join(BALLAST))?;
        let mut take = |bytes: usize| ballast.write_all(&vec![0; bytes]).and_then(|()| ballast.sync_data());
        loop {
            for bytes in [1 << 20, 4 << 10] {
                while take(bytes).is_ok() {}
            }
            // What is left of a block. If that has no end, the broker has given something back meanwhile.
            if (0..4 << 10).any(|_| take(1).is_err()) {
                return Ok(());
            }
        }
    }

    /// Gives back the space that [`Volume::fill`] took.
    pub fn relieve(&self) -> Result<()> {
        fs::remove_file(self.mounted_at.join(BALLAST)).context("remove the ballast")
    }

    fn mount(&self) -> Result<()> {
        let outcome = run(Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.mounted_at));
        outcome.context("cannot mount a file system in a file; that takes root's rights and loop devices")
    }

    fn unmount(&self) -> Result<()> {
        let since = Instant::now();
        loop {
            let outcome = run(Command::new("umount").arg(&self.mounted_at));
            if outcome.is_ok() || since.elapsed() > Duration::from_secs(UNMOUNT_SECONDS_MAX) {
                return outcome;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // Its broker has been dropped before; whatever else holds it keeps it until it goes.
        let _ = Command::new("umount").arg("--lazy").arg(&self.mounted_at).output();
    }
}

/// A program that runs `binary` without any sync reaching the disk, to show that power loss is noticed.
pub fn without_syncs(folder: &Path, binary: &Path) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let script = folder.join("without-syncs");
    let binary = binary.canonicalize().with_context(|| format!("find {}", binary.display()))?;
    fs::write(&script, format!("#!/bin/sh\nexec eatmydata {} \"$@\"\n", binary.display()))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let Output { status, stderr, .. } = match command.output() {
        Ok(output) => output,
        Err(error) => bail!("{program}: {error}"),
    };
    ensure!(status.success(), "{program}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    Ok(())
}
