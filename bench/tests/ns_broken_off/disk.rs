//! A small disk that can be full.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;

/// A tmpfs of its own; unmounted when it goes.
pub(crate) struct Disk(tempfile::TempDir);

impl Disk {
    /// `size` as mount(8) has it.
    pub(crate) fn mount(size: &str) -> Self {
        let disk = Self(tempfile::tempdir().unwrap());
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        let status = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(disk.path()).status();
        assert!(status.unwrap().success());
        disk
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Leaves no room, until the file of this name is removed.
    pub(crate) fn fill(&self, name: &str) {
        let mut file = File::create(self.path().join(name)).unwrap();
        while file.write_all(&[0; 4_096]).is_ok() {}
        while file.write_all(&[0]).is_ok() {}
    }

    /// Makes room again.
    pub(crate) fn clear(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _unmounted = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
