//! Which instruction set runs: detected once, every kernel behind a function pointer.
//!
//! `HETERO_CPU_ISA` = `scalar`, `avx2`, `avx512`, `neon` or `neon-dotprod` forces one; a name that this machine does not
//! have is an error, not a fallback.

use core::fmt;
use std::sync::OnceLock;

use crate::kernels::{
    Attention, AttentionCut, AttentionScratch, CacheWrite, Convert, Elementwise, EmbedRow, LinearBf16, LinearFloat,
    LinearInt8, QuantizeActivations, RmsNorm, Rope, Softmax,
};
use crate::simd::Simd;

/// The environment variable that forces an instruction set.
pub const ISA_VARIABLE: &str = "HETERO_CPU_ISA";

/// All kernels, compiled for one instruction set that this machine has.
///
/// # Safety
///
/// Every function takes addresses: whatever the documentation of its parameters calls `[rows, columns]` must be there for
/// the whole shape (inputs readable, not written meanwhile), and the part of the output that the ranges name must be
/// writable and used by nobody else during the call. Other parts of the output are not touched.
#[derive(Clone, Copy)]
pub struct Kernels {
    /// The name that `HETERO_CPU_ISA` takes.
    pub name: &'static str,
    /// f32 rows to int8 with a scale for every 32 columns.
    pub quantize_activations: unsafe fn(&QuantizeActivations),
    /// Linear layers of 4-bit and 8-bit weights on int8 activations.
    pub linear_int8: unsafe fn(&LinearInt8),
    /// Linear layers of any weights on f32 activations.
    pub linear_float: unsafe fn(&LinearFloat),
    /// Linear layers of bf16 weights on bf16 activations, where the CPU has an instruction for it.
    pub linear_bf16: Option<unsafe fn(&LinearBf16)>,
    /// Whether that one is faster than `linear_float` here. AMD's cores start a bf16 dot product in every cycle; Intel's
    /// start one in every other, which makes it slower than unpacking to floats, and floats are exact.
    pub prefers_bf16: bool,
    /// Root-mean-square norm.
    pub rms_norm: unsafe fn(&RmsNorm),
    /// Rotary position embedding.
    pub rope: unsafe fn(&Rope),
    /// `silu(a) * b`.
    pub swiglu: unsafe fn(&Elementwise),
    /// `a + b`.
    pub add: unsafe fn(&Elementwise),
    /// Between f32, f16 and bf16.
    pub convert: unsafe fn(&Convert),
    /// Softmax of rows.
    pub softmax: unsafe fn(&Softmax),
    /// New keys or values into a cache.
    pub cache_write: unsafe fn(&CacheWrite),
    /// One row of a weight matrix as f32.
    pub embed_row: unsafe fn(&EmbedRow),
    /// Causal grouped-query attention.
    pub attention: unsafe fn(&Attention, &AttentionCut, &mut AttentionScratch),
}

impl fmt::Debug for Kernels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernels").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A forced instruction set that this machine does not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{ISA_VARIABLE}={requested} is not available on this machine, which has {available}")]
pub struct UnavailableIsa {
    /// What was asked for.
    pub requested: String,
    /// What there is, by name.
    pub available: String,
}

impl Kernels {
    /// Every instruction set that this machine has, from the plainest to the one that is chosen by itself.
    pub fn available() -> &'static [Self] {
        static AVAILABLE: OnceLock<Vec<Kernels>> = OnceLock::new();
        AVAILABLE.get_or_init(detect)
    }

    /// The kernels to use: what `HETERO_CPU_ISA` forces, or else the best that there is.
    pub fn select() -> Result<&'static Self, UnavailableIsa> {
        match std::env::var(ISA_VARIABLE) {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Ok(Self::best()),
        }
    }

    /// The kernels of one instruction set.
    pub fn named(name: &str) -> Result<&'static Self, UnavailableIsa> {
        Self::available().iter().find(|kernels| kernels.name == name).ok_or_else(|| {
            let names: Vec<_> = Self::available().iter().map(|kernels| kernels.name).collect();
            UnavailableIsa { requested: name.to_owned(), available: names.join(", ") }
        })
    }

    fn best() -> &'static Self {
        // `detect` always puts the scalar kernels in.
        Self::available().last().expect("the scalar kernels are always available")
    }
}

/// Compiles every kernel for one instruction set.
///
/// The entry functions carry the `#[target_feature]`s; all below them is inlined, so that it is compiled with them.
macro_rules! kernels_for {
    ($module:ident, $isa:ty, $name:literal, $($feature:literal)?) => {
        mod $module {
            use super::*;

            /// The proof; `table` has made sure of it.
            #[inline(always)]
            fn isa() -> $isa {
                // SAFETY: these functions are reachable by way of `table` only, which has called `new`.
                unsafe { <$isa>::assume() }
            }

            kernels_for!(@entries [$($feature)?]
                quantize_activations(params: &QuantizeActivations);
                linear_int8(params: &LinearInt8);
                linear_float(params: &LinearFloat);
                rms_norm(params: &RmsNorm);
                rope(params: &Rope);
                swiglu(params: &Elementwise);
                add(params: &Elementwise);
                convert(params: &Convert);
                softmax(params: &Softmax);
                cache_write(params: &CacheWrite);
                attention(params: &Attention, cut: &AttentionCut, scratch: &mut AttentionScratch);
            );

            /// The kernels, if this machine has the instruction set.
            pub(super) fn table() -> Option<Kernels> {
                <$isa>::new()?;
                Some(Kernels {
                    name: $name,
                    quantize_activations,
                    linear_int8,
                    linear_float,
                    linear_bf16: None,
                    prefers_bf16: false,
                    rms_norm,
                    rope,
                    swiglu,
                    add,
                    convert,
                    softmax,
                    cache_write,
                    embed_row,
                    attention,
                })
            }
        }
    };
    (@entries $features:tt $($kernel:ident($($argument:ident: $type:ty),+);)+) => {
        $(kernels_for!(@entry $features $kernel($($argument: $type),+));)+
    };
    (@entry [$($feature:literal)?] $kernel:ident($($argument:ident: $type:ty),+)) => {
        $(#[target_feature(enable = $feature)])?
        unsafe fn $kernel($($argument: $type),+) {
            // SAFETY: forwarded.
            unsafe { crate::kernels::$kernel(isa(), $($argument),+) }
        }
    };
}

/// Rows are gathered four bytes at a time, which no instruction set speeds up.
unsafe fn embed_row(params: &EmbedRow) {
    // SAFETY: forwarded.
    unsafe { crate::kernels::embed_row(params) }
}

kernels_for!(scalar, crate::simd::Scalar, "scalar",);
#[cfg(target_arch = "x86_64")]
kernels_for!(avx2, crate::simd::Avx2, "avx2", "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels_for!(avx512, crate::simd::Avx512, "avx512", "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
kernels_for!(neon, crate::simd::Neon, "neon", "neon");
#[cfg(target_arch = "aarch64")]
kernels_for!(neon_dotprod, crate::simd::NeonDot, "neon-dotprod", "neon,dotprod");

/// The bf16 kernel of AVX-512, if this machine has AVX512-BF16.
#[cfg(target_arch = "x86_64")]
fn avx512_bf16() -> Option<unsafe fn(&LinearBf16)> {
    use crate::simd::{Avx512Bf16, Bf16Dot};

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
    unsafe fn linear_bf16(params: &LinearBf16) {
        // SAFETY: reachable by way of `avx512_bf16` only, which has called `new`; the rest is forwarded.
        unsafe { crate::kernels::linear_bf16(Avx512Bf16::assume(), params) }
    }

    Avx512Bf16::new()?;
    Some(linear_bf16)
}

#[cfg(target_arch = "x86_64")]
fn is_amd() -> bool {
    let vendor = std::arch::x86_64::__cpuid(0);
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD"
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Vec<Kernels> {
    let avx512 =
        avx512::table().map(|kernels| Kernels { linear_bf16: avx512_bf16(), prefers_bf16: is_amd(), ..kernels });
    [scalar::table(), avx2::table(), avx512].into_iter().flatten().collect()
}

/// The bf16 kernel of Armv8.6, if this machine has it.
#[cfg(target_arch = "aarch64")]
fn neon_bf16() -> Option<unsafe fn(&LinearBf16)> {
    use crate::simd::{Bf16Dot, NeonBf16};

    #[target_feature(enable = "neon,dotprod,bf16")]
    unsafe fn linear_bf16(params: &LinearBf16) {
        // SAFETY: reachable by way of `neon_bf16` only, which has called `new`; the rest is forwarded.
        unsafe { crate::kernels::linear_bf16(NeonBf16::assume(), params) }
    }

    NeonBf16::new()?;
    Some(linear_bf16)
}

#[cfg(target_arch = "aarch64")]
fn detect() -> Vec<Kernels> {
    let neon_dotprod = neon_dotprod::table().map(|kernels| Kernels { linear_bf16: neon_bf16(), ..kernels });
    [scalar::table(), neon::table(), neon_dotprod].into_iter().flatten().collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn detect() -> Vec<Kernels> {
    scalar::table().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_is_last_and_the_scalar_kernels_are_first() {
        let names: Vec<_> = Kernels::available().iter().map(|kernels| kernels.name).collect();
        assert_eq!(names[0], "scalar");
        assert_eq!(Kernels::best().name, *names.last().expect("never empty"));
    }

    #[test]
    fn a_missing_instruction_set_is_an_error_that_names_what_there_is() {
        let error = Kernels::named("avx1024").expect_err("no such instruction set");
        assert_eq!(error.requested, "avx1024");
        assert!(error.to_string().contains("scalar"), "{error}");
    }

    /// `ARM_REQUIRE=dotprod,fp16` makes a missing feature a failure, so that an emulated CPU cannot skip its path.
    #[test]
    #[cfg(target_arch = "aarch64")]
    fn required_features_are_detected() {
        let required = std::env::var("ARM_REQUIRE").unwrap_or_default();
        for feature in required.split(',') {
            match feature {
                "dotprod" => assert!(Kernels::named("neon-dotprod").is_ok(), "the emulated CPU shows no dotprod"),
                "fp16" => assert!(std::arch::is_aarch64_feature_detected!("fp16")),
                "i8mm" => assert!(std::arch::is_aarch64_feature_detected!("i8mm")),
                _ => {}
            }
        }
    }
}
