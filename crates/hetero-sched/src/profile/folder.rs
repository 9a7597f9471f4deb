//! A folder of profiles, one file for each team of devices.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Identity, Profile, ProfileError};

/// Where profiles are kept.
///
/// A file is named after the devices, so that a team of others does not replace it. What changes about a device, its
/// driver and kernels, is inside, and a profile in which it is different is refused as stale.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileFolder {
    path: PathBuf,
}

impl ProfileFolder {
    /// A folder, which need not exist before something is kept in it.
    pub fn new(path: impl Into<PathBuf>) -> ProfileFolder {
        ProfileFolder { path: path.into() }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file of a team.
    pub fn file_of(&self, devices: &[Identity]) -> PathBuf {
        let names: Vec<String> = devices.iter().map(|device| plain(&device.name)).collect();
        let mut hash = FNV_OFFSET;
        for text in devices.iter().flat_map(|device| [&device.name, &device.kind, &device.description]) {
            hash = fnv(fnv(hash, text.as_bytes()), &[0]);
        }
        self.path.join(format!("{}-{:08x}.json", names.join("+"), (hash >> 32) as u32 ^ hash as u32))
    }

    /// The profile of a team; `None` when there is none yet.
    pub fn load(&self, devices: &[Identity]) -> Result<Option<Profile>, ProfileError> {
        match Profile::load(&self.file_of(devices), devices) {
            Ok(profile) => Ok(Some(profile)),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a profile in the place of an older one of the same team. Returns where.
    pub fn save(&self, profile: &Profile) -> Result<PathBuf, ProfileError> {
        let failed = |source| ProfileError::Io { path: self.path.clone(), source };
        fs::create_dir_all(&self.path).map_err(failed)?;
        let identities: Vec<Identity> = profile.devices.iter().map(|device| device.identity.clone()).collect();
        let file = self.file_of(&identities);
        profile.save(&file)?;
        Ok(file)
    }
}

/// A device's name as a part of a file's: `gpu-vulkano:0` has a character that not every system takes.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a with 64 bits (Fowler, Noll, Vo): the standard library's hash may change with its version, and a file's name
/// must not.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(name: &str, description: &str) -> Identity {
        Identity {
            name: name.to_owned(),
            kind: "cpu".to_owned(),
            description: description.to_owned(),
            version: "1".to_owned(),
            kernel_version: "1".to_owned(),
        }
    }

    #[test]
    fn the_name_of_a_file_follows_from_the_devices_alone() {
        let folder = ProfileFolder::new("profiles");
        let [a, b] = ["2 threads", "4 threads"].map(|description| identity("gpu:0", description));
        let file = folder.file_of(std::slice::from_ref(&a));
        assert_eq!(file, folder.file_of(&[Identity { version: "2".to_owned(), ..a.clone() }]));
        assert_ne!(file, folder.file_of(std::slice::from_ref(&b)));
        assert_ne!(folder.file_of(&[a.clone(), b.clone()]), folder.file_of(&[b, a]));
        assert!(file.to_str().expect("ASCII").starts_with("profiles/gpu_0-"), "{}", file.display());
    }

    #[test]
    fn a_profile_that_is_not_there_is_no_error() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let profiles = ProfileFolder::new(folder.path().join("new"));
        assert!(matches!(profiles.load(&[identity("cpu", "")]), Ok(None)));
        assert!(profiles.load(&[]).is_ok_and(|profile| profile.is_none()));
    }
}
