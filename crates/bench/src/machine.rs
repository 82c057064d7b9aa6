//! What was measured on: without it a figure means nothing.

use crate::report::Report;
use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

/// Adds the facts of this machine, and of the disk that holds `directory`, to a report.
pub fn describe(report: &mut Report, directory: &Path) {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    report.fact("processor", format!("{cores} cores, {}", processor(&read("/proc/cpuinfo"))));
    report.fact("memory", format!("{} GiB", memory_kib(&read("/proc/meminfo")) >> 20));
    report.fact("kernel", format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()));
    report.fact("disk", disk(&read("/proc/mounts"), directory));
    let load = read("/proc/loadavg");
    let load = load.split_whitespace().next().unwrap_or("unknown");
    report.fact("load before", format!("{load} (runnable tasks, one minute's average)"));
}

fn processor(cpuinfo: &str) -> &str {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split_once(": ")).map_or("model unknown", |(_, model)| model)
}

fn memory_kib(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Device and file system of the mount that holds the directory.
fn disk(mounts: &str, directory: &Path) -> String {
    let directory = directory.canonicalize().unwrap_or_else(|_| PathBuf::from(directory));
    let mount = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ');
            Some((words.next()?, words.next()?, words.next()?))
        })
        .filter(|(_, point, _)| directory.starts_with(point))
        .max_by_key(|(_, point, _)| point.len());
    match mount {
        Some((device, _, kind)) => format!("{device}, {kind}"),
        None => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_counts() {
        let mounts = "/dev/a / ext4 rw 0 0\n/dev/b /nowhere/data xfs rw 0 0\n";
        assert_eq!(disk(mounts, Path::new("/nowhere/data/x")), "/dev/b, xfs");
        assert_eq!(disk(mounts, Path::new("/nowhere/database")), "/dev/a, ext4");
    }
}
