//! Drivers that are known to get variants of kernels wrong, as plain data.
//!
//! The self-test finds results that are wrong. This table is for what it cannot find, because the process or the device
//! dies of it, and for what was reported often enough to be believed before it happens again. An entry says where from.

use crate::Knobs;

/// A device and its driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Driver<'a> {
    /// PCI vendor, or what Vulkan gives in its place.
    pub vendor: u32,
    /// Product name.
    pub device: &'a str,
    /// Name and version of the driver.
    pub driver: &'a str,
}

impl Driver<'_> {
    /// What may be used, of what the user allows; the log says what is left out.
    pub fn knobs(self, allowed: &Knobs) -> Knobs {
        let mut knobs = allowed.clone();
        for quirk in quirks_of(self) {
            tracing::info!(device = self.device, knobs = quirk.knobs, why = quirk.why, "a driver has a known mistake");
            knobs.add(&quirk.knobs());
        }
        knobs
    }
}

/// What is known of a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quirk {
    /// Whose devices.
    pub vendor: u32,
    /// A part of the product names.
    pub device: &'static str,
    /// A part of the driver's name or version.
    pub driver: &'static str,
    /// What may not be used, as the text of [`Knobs`].
    pub knobs: &'static str,
    /// What happens otherwise.
    pub why: &'static str,
}

/// All that is known.
pub const QUIRKS: &[Quirk] = &[
    // <https://github.com/ggml-org/llama.cpp/pull/29165>: the shader compiler crashes at a product with subgroup operations.
    Quirk {
        vendor: QUALCOMM,
        device: "Adreno",
        driver: "Qualcomm",
        knobs: "linear_vector=-subgroups",
        why: "its compiler crashes at products that sum over subgroups",
    },
    // <https://github.com/ggml-org/llama.cpp/issues/23133>: wrong products on Mali-G720-Immortalis.
    Quirk {
        vendor: ARM,
        device: "Mali-G720",
        driver: "",
        knobs: "linear_tiled=plain",
        why: "products of many rows were reported as wrong",
    },
    // <https://github.com/ggml-org/llama.cpp/issues/28214>: the firmware of C-series devices crashes, or numbers are wrong.
    Quirk {
        vendor: IMAGINATION,
        device: "PowerVR",
        driver: "",
        knobs: "*=plain",
        why: "its firmware crashes at other than plain kernels",
    },
];

const QUALCOMM: u32 = 0x5143;
const ARM: u32 = 0x13b5;
const IMAGINATION: u32 = 0x1010;

/// What is known of a driver.
pub fn quirks_of(driver: Driver<'_>) -> Vec<&'static Quirk> {
    let fits = |quirk: &&Quirk| {
        quirk.vendor == driver.vendor && driver.device.contains(quirk.device) && driver.driver.contains(quirk.driver)
    };
    QUIRKS.iter().filter(fits).collect()
}

impl Quirk {
    /// What may not be used.
    ///
    /// # Panics
    /// When the text of the table is no [`Knobs`], which a test sees.
    pub fn knobs(&self) -> Knobs {
        self.knobs.parse().unwrap_or_else(|error| panic!("{}: {error}", self.knobs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Variant;

    #[test]
    fn every_entry_forbids_something() {
        QUIRKS.iter().for_each(|quirk| assert_ne!(quirk.knobs(), Knobs::default(), "{quirk:?}"));
    }

    #[test]
    fn a_driver_gets_what_is_known_of_it_and_nothing_else() {
        let adreno =
            Driver { vendor: QUALCOMM, device: "Adreno (TM) 750", driver: "Qualcomm Technologies Inc. 512.762" };
        let found = quirks_of(adreno);
        assert_eq!(found.len(), 1);
        assert!(!found[0].knobs().allows("linear_vector", Variant::Subgroups));
        assert!(quirks_of(Driver { driver: "turnip Mesa driver Mesa 25.1", ..adreno }).is_empty());
        assert!(quirks_of(Driver { vendor: 0x10005, device: "llvmpipe", driver: "llvmpipe Mesa" }).is_empty());
    }
}
