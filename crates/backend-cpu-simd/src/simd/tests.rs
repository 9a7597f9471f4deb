//! The operations of each instruction set whose errors a kernel's tolerance could hide.

use super::*;

/// Calls a check that is generic over the instruction set for each one that this machine has.
macro_rules! on_each {
    ($check:ident) => {{
        $check(Scalar::new().expect("always there"), "scalar");
        #[cfg(target_arch = "x86_64")]
        {
            Avx2::new().into_iter().for_each(|s| $check(s, "avx2"));
            Avx512::new().into_iter().for_each(|s| $check(s, "avx512"));
        }
        #[cfg(target_arch = "aarch64")]
        {
            Neon::new().into_iter().for_each(|s| $check(s, "neon"));
            NeonDot::new().into_iter().for_each(|s| $check(s, "neon-dotprod"));
        }
    }};
}

fn lanes<S: Simd>(s: S, value: S::F32) -> [f32; LANES] {
    let mut out = [0.0; LANES];
    // SAFETY: the array has 16 values.
    unsafe { s.store(out.as_mut_ptr(), value) };
    out
}

fn check_exp<S: Simd>(s: S, name: &str) {
    assert_eq!(lanes(s, exp(s, s.splat(0.0)))[0], 1.0);
    let mut worst = 0.0f64;
    for i in -870_000..880_000 {
        if i % 7 != 0 {
            continue;
        }
        let x = i as f32 * 1e-4;
        let exact = f64::from(x).exp();
        let error = (f64::from(lanes(s, exp(s, s.splat(x)))[5]) - exact).abs() / exact;
        worst = worst.max(error);
    }
    assert!(worst < 2.5e-7, "{name}: relative error {worst:e}");
    assert!(lanes(s, exp(s, s.splat(-1000.0)))[0] < 2e-38);
    assert!(lanes(s, exp(s, s.splat(1000.0)))[0] > 1e38);
}

#[test]
fn exp_is_accurate() {
    on_each!(check_exp);
}

fn check_silu<S: Simd>(s: S, name: &str) {
    for i in -2000..2000 {
        let x = i as f32 * 0.05;
        let exact = f64::from(x) / (1.0 + (-f64::from(x)).exp());
        let error = (f64::from(lanes(s, silu(s, s.splat(x)))[3]) - exact).abs();
        assert!(error <= 5e-7 * exact.abs() + 1e-36, "{name}: silu({x}) off by {error:e}");
    }
}

#[test]
fn silu_is_accurate() {
    on_each!(check_silu);
}

fn check_transpose<S: Simd>(s: S, name: &str) {
    let mut rows = [s.splat(0.0); LANES];
    for (i, row) in rows.iter_mut().enumerate() {
        let values: [f32; LANES] = core::array::from_fn(|j| (i * 16 + j) as f32);
        // SAFETY: the array has 16 values.
        *row = unsafe { s.load(values.as_ptr()) };
    }
    s.transpose(&mut rows);
    for (i, row) in rows.into_iter().enumerate() {
        let expected: [f32; LANES] = core::array::from_fn(|j| (j * 16 + i) as f32);
        assert_eq!(lanes(s, row), expected, "{name} row {i}");
    }
}

#[test]
fn transpose_exchanges_rows_and_lanes() {
    on_each!(check_transpose);
}

fn check_round<S: Simd>(s: S, name: &str) {
    for (value, expected) in [(0.5, 0), (1.5, 2), (2.5, 2), (-0.5, 0), (-1.5, -2), (126.5, 126), (-126.6, -127)] {
        let mut bytes = [9i8; LANES];
        // SAFETY: the array has 16 bytes.
        unsafe { s.store_i8(bytes.as_mut_ptr(), s.round(s.splat(value))) };
        assert_eq!(bytes, [expected; LANES], "{name} rounds {value}");
        assert_eq!(s.reduce_sum_i32(s.round(s.splat(value))), 16 * i32::from(expected));
    }
}

#[test]
fn rounding_is_to_nearest_even() {
    on_each!(check_round);
}

fn check_reductions_and_parts<S: Simd>(s: S, name: &str) {
    let values: [f32; LANES] = core::array::from_fn(|i| ((i * 7) % 16) as f32 - 20.0);
    for count in 0..=LANES {
        // SAFETY: both arrays have 16 values.
        unsafe {
            let loaded = s.load_partial(values.as_ptr(), count);
            let expected: f32 = values[..count].iter().sum();
            assert_eq!(s.reduce_sum(loaded), expected, "{name}");
            let mut out = [1.5; LANES];
            s.store_partial(out.as_mut_ptr(), s.load(values.as_ptr()), count);
            assert_eq!(out[..count], values[..count], "{name}");
            assert!(out[count..].iter().all(|&value| value == 1.5), "{name}");
        }
    }
    // SAFETY: the array has 16 values.
    let all = unsafe { s.load(values.as_ptr()) };
    assert_eq!(s.reduce_max(all), -5.0, "{name}");
}

#[test]
fn reductions_see_all_lanes_and_partial_accesses_only_theirs() {
    on_each!(check_reductions_and_parts);
}

fn check_fields<S: Simd>(s: S, name: &str) {
    let words: [u32; LANES] = core::array::from_fn(|i| 0x9c31_f7a5u32.rotate_left(i as u32 * 3));
    // SAFETY: the array has 64 bytes.
    let block = unsafe { s.load_block(words.as_ptr().cast()) };
    for index in 0..4 {
        let expected = words.map(|word| f32::from((word >> (8 * index)) as u8 as i8));
        assert_eq!(lanes(s, s.byte_f32(block, index)), expected, "{name} byte {index}");
    }
    for shift in (0..32).step_by(4) {
        let expected = words.map(|word| ((word >> shift) & 15) as f32 - 8.0);
        assert_eq!(lanes(s, s.nibble_f32(block, shift)), expected, "{name} nibble at {shift}");
    }
}

#[test]
fn bytes_and_nibbles_are_extracted_from_every_place() {
    on_each!(check_fields);
}
