//! Profiles as files: written whole or not at all, read only when they are of these devices.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{FORMAT, Identity, Profile};

/// Why a profile cannot be used; the remedy is always to measure anew.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The file cannot be read or written.
    #[error("the profile {} cannot be accessed", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a profile, or not all of one.
    #[error("the profile {} is damaged", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where it ceases to make sense.
        source: serde_json::Error,
    },
    /// The numbers in the file cannot have been measured.
    #[error("the profile {} has an impossible value for {what}: {value}", path.display())]
    Impossible {
        /// The file.
        path: PathBuf,
        /// What the number is of.
        what: String,
        /// The number.
        value: f64,
    },
    /// The file is of another version of this program.
    #[error("the profile {} has format {found}, and format {expected} is needed", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The format that is read.
        expected: u32,
        /// The file's.
        found: u64,
    },
    /// The file is of other devices.
    #[error("the profile {} is of the devices {found:?}, not of {expected:?}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// Names and descriptions of the devices at hand.
        expected: Vec<String>,
        /// Those in the file.
        found: Vec<String>,
    },
    /// The device is the same, its driver, backend or kernels are not.
    #[error("the profile {} of device {device} is of version {found}, and version {expected} runs", path.display())]
    Stale {
        /// The file.
        path: PathBuf,
        /// The device.
        device: String,
        /// The versions at hand.
        expected: String,
        /// Those in the file.
        found: String,
    },
}

impl ProfileError {
    /// Whether there is simply no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, ProfileError::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

impl Profile {
    /// Writes the profile, replacing an older one in a single step.
    pub fn save(&self, path: &Path) -> Result<(), ProfileError> {
        let failed = |source| ProfileError::Io { path: path.to_owned(), source };
        // Several programs may save at once, and the last one counts.
        let beside = path.with_extension(format!("{}.new", std::process::id()));
        let text = serde_json::to_vec_pretty(self).expect("a profile is plain data");
        let write = || -> io::Result<()> {
            let mut file = fs::File::create(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write().map_err(|error| {
            // Half a file is of no use; when it cannot be removed either, its name says what it is.
            let _ = fs::remove_file(&beside);
            failed(error)
        })
    }

    /// Reads a profile of these devices.
    pub fn load(path: &Path, devices: &[Identity]) -> Result<Profile, ProfileError> {
        let text = fs::read(path).map_err(|source| ProfileError::Io { path: path.to_owned(), source })?;
        let damaged = |source| ProfileError::Damaged { path: path.to_owned(), source };
        // The format first: another one may have other fields.
        let any: serde_json::Value = serde_json::from_slice(&text).map_err(damaged)?;
        let found = any.get("format").and_then(serde_json::Value::as_u64);
        if let Some(found) = found.filter(|&found| found != u64::from(FORMAT)) {
            return Err(ProfileError::Format { path: path.to_owned(), expected: FORMAT, found });
        }
        let profile: Profile = serde_json::from_value(any).map_err(damaged)?;
        profile.check_identity(path, devices)?;
        profile.check_numbers(path)?;
        Ok(profile)
    }

    fn check_identity(&self, path: &Path, devices: &[Identity]) -> Result<(), ProfileError> {
        let name = |identity: &Identity| format!("{} ({})", identity.name, identity.description);
        let found: Vec<String> = self.devices.iter().map(|device| name(&device.identity)).collect();
        let expected: Vec<String> = devices.iter().map(name).collect();
        if found != expected {
            return Err(ProfileError::Foreign { path: path.to_owned(), expected, found });
        }
        let versions = |identity: &Identity| format!("{}, kernels {}", identity.version, identity.kernel_version);
        for (known, device) in self.devices.iter().zip(devices) {
            if known.identity != *device {
                return Err(ProfileError::Stale {
                    path: path.to_owned(),
                    device: device.name.clone(),
                    expected: versions(device),
                    found: versions(&known.identity),
                });
            }
        }
        Ok(())
    }

    fn check_numbers(&self, path: &Path) -> Result<(), ProfileError> {
        let check = |what: &dyn Fn() -> String, value: f64, least: f64| {
            if value.is_finite() && value >= least {
                return Ok(());
            }
            Err(ProfileError::Impossible { path: path.to_owned(), what: what(), value })
        };
        for device in &self.devices {
            let name = &device.identity.name;
            let overheads = &device.overheads;
            for (what, value) in [
                ("submit_seconds", overheads.submit_seconds),
                ("submit_idle_seconds", overheads.submit_idle_seconds),
                ("poll_sync_seconds", overheads.poll_sync_seconds),
                ("block_sync_seconds", overheads.block_sync_seconds),
                ("copy_seconds", overheads.copy_seconds),
                ("copy_seconds_per_byte", overheads.copy_seconds_per_byte),
                ("error_seconds", overheads.error_seconds),
            ] {
                check(&|| format!("{what} of {name}"), value, 0.0)?;
            }
            for operator in &device.operators {
                check(&|| format!("own bytes of {} on {name}", operator.operator), operator.own_bytes_per_column, 0.0)?;
                for sample in &operator.samples {
                    check(&|| format!("seconds of {} on {name}", operator.operator), sample.seconds, 0.0)?;
                    let noise = sample.error.min(sample.spread);
                    check(&|| format!("the error of {} on {name}", operator.operator), noise, 0.0)?;
                    let shape = sample.rows.min(sample.columns) as f64;
                    check(&|| format!("the shape of {} on {name}", operator.operator), shape, 1.0)?;
                }
            }
        }
        for together in &self.together {
            let is_known = together.devices.iter().all(|&idx| idx < self.devices.len());
            let n = together.slowdowns.len() as f64 - together.devices.len() as f64;
            check(&|| "the devices that ran together".to_owned(), if is_known { -n.abs() } else { -1.0 }, 0.0)?;
            for &slowdown in &together.slowdowns {
                check(&|| "a slowdown".to_owned(), slowdown, 1.0)?;
            }
        }
        Ok(())
    }
}
