//! Measures the linear kernels beside what the machine can do, on the shapes of Llama-3.2-1B.
//!
//! ```sh
//! cargo run --release -p backend-cpu-simd --example kernel_speed -- [threads] [best]
//! ```
//!
//! Decode (one position) is compared with the bandwidth of reading memory, prefill (512 positions) with the rate of the
//! CPU's byte dot products on registers. Every figure is the median of repeated runs, or with `best` the fastest, which
//! says more on a machine that others use too; `HETERO_CPU_ISA` forces a path.
#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use backend_cpu_simd::dispatch::Kernels;
use backend_cpu_simd::kernels::{
    Attention, AttentionCut, AttentionScratch, Element, GROUP, LinearBf16, LinearFloat, LinearInt8, PANEL_ROWS,
    PanelWeights, QuantizeActivations, QuantizedRows, Rows, RowsMut, WeightFormat,
};
use backend_cpu_simd::worker_pool::WorkerPool;

/// `[n, k]` of the linear layers.
const SHAPES: [(usize, usize); 4] = [(2048, 2048), (8192, 2048), (2048, 8192), (128_256, 2048)];
const PREFILL: usize = 512;
/// Decode cycles through copies of a matrix of this many bytes in all, so that no cache holds the next one.
const COLD_BYTES: usize = 1 << 30;

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([u8; 64]);

fn main() {
    let threads = std::env::args().nth(1).map_or(2, |arg| arg.parse().expect("a number of threads"));
    let kernels = Kernels::select().expect("the instruction set of HETERO_CPU_ISA");
    let pool = WorkerPool::new(threads).expect("threads");
    println!("{} with {threads} threads", kernels.name);

    let barrier = median(20, || pool.run(|worker| (0..1000).for_each(|_| worker.barrier())).expect("no panic"));
    let run = median(200, || pool.run(|_| {}).expect("no panic"));
    println!("barrier {:.2} us, run {:.2} us", micros(barrier) / 1000.0, micros(run));

    let memory: Vec<Line> = (0..COLD_BYTES / 64).map(|i| Line([0x30 + (i % 13) as u8; 64])).collect();
    let bandwidth = read_bandwidth(&pool, &memory);
    println!("read bandwidth {bandwidth:.1} GB/s");
    let peak = dot_peak(&pool);
    println!("byte dot products {peak:.0} Gop/s\n");

    println!("decode, 1 position");
    for format in [WeightFormat::W4G32, WeightFormat::W8G32] {
        for shape in SHAPES {
            let gb = decode(&pool, kernels, &memory, format, shape, Activations::Int8);
            println!("  int8  {format} {shape:?}: {gb:.1} GB/s, {:.0} % of reading", 100.0 * gb / bandwidth);
        }
    }
    for format in WeightFormat::ALL {
        let gb = decode(&pool, kernels, &memory, format, SHAPES[1], Activations::Float);
        println!("  float {format} {:?}: {gb:.1} GB/s, {:.0} % of reading", SHAPES[1], 100.0 * gb / bandwidth);
    }
    if kernels.linear_bf16.is_some() {
        let gb = decode(&pool, kernels, &memory, WeightFormat::Bf16, SHAPES[1], Activations::Bf16);
        println!("  bf16  bf16 {:?}: {gb:.1} GB/s, {:.0} % of reading", SHAPES[1], 100.0 * gb / bandwidth);
    }

    println!("prefill, {PREFILL} positions");
    for format in [WeightFormat::W4G32, WeightFormat::W8G32] {
        for shape in &SHAPES[..3] {
            let rate = prefill(&pool, kernels, &memory, format, *shape, Activations::Int8);
            println!("  int8  {format} {shape:?}: {rate:.0} Gop/s, {:.0} % of the peak", 100.0 * rate / peak);
        }
    }
    for format in WeightFormat::ALL {
        let rate = prefill(&pool, kernels, &memory, format, SHAPES[0], Activations::Float);
        println!("  float {format} {:?}: {rate:.0} Gop/s", SHAPES[0]);
    }
    if kernels.linear_bf16.is_some() {
        for shape in &SHAPES[..3] {
            let rate = prefill(&pool, kernels, &memory, WeightFormat::Bf16, *shape, Activations::Bf16);
            println!("  bf16  bf16 {shape:?}: {rate:.0} Gop/s");
        }
    }
    for (positions, past) in [(1, 1023), (512, 0)] {
        let time = attention(&pool, kernels, positions, past);
        println!("attention of {positions} positions after {past}: {:.1} us a layer", micros(time));
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Activations {
    Int8,
    Float,
    Bf16,
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// The median time of `count` runs, or the best one.
fn median(count: usize, mut run: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let best = std::env::args().nth(2).is_some_and(|arg| arg == "best");
    times[if best { 0 } else { count / 2 }]
}

/// GB/s of reading `memory`, piece by piece.
fn read_bandwidth(pool: &WorkerPool, memory: &[Line]) -> f64 {
    const PIECE: usize = 1 << 25;
    let mut pieces = memory.chunks_exact(PIECE / 64).cycle();
    let time = median(2 * COLD_BYTES / PIECE, || {
        let piece = pieces.next().expect("a cycle");
        pool.run(|worker| {
            let mut sums = [0u64; 32];
            for lines in piece[worker.share(piece.len())].chunks_exact(4) {
                for (line, sums) in lines.iter().zip(sums.chunks_exact_mut(8)) {
                    for (bytes, sum) in line.0.chunks_exact(8).zip(sums) {
                        *sum ^= u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
                    }
                }
            }
            black_box(sums);
        })
        .expect("no panic");
    });
    PIECE as f64 / time.as_secs_f64() / 1e9
}

/// Gop/s (a multiplication and an addition are two) of byte dot products on registers.
fn dot_peak(pool: &WorkerPool) -> f64 {
    const ROUNDS: usize = 2_000_000;
    let time = median(7, || {
        pool.run(|_| {
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx512vnni") {
                // SAFETY: the instructions have just been detected.
                unsafe { dots_avx512(ROUNDS) }
            }
        })
        .expect("no panic");
    });
    (ROUNDS * 12 * 128 * pool.n_workers()) as f64 / time.as_secs_f64() / 1e9
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn dots_avx512(rounds: usize) {
    use std::arch::x86_64::{_mm512_dpbusd_epi32, _mm512_set1_epi32};
    let (a, b) = black_box((_mm512_set1_epi32(1), _mm512_set1_epi32(2)));
    let mut sums = [_mm512_set1_epi32(0); 12];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = _mm512_dpbusd_epi32(*sum, a, b);
        }
    }
    black_box(sums);
}

/// One call of a linear kernel on all workers; the activations are ready.
struct Layer {
    kind: Activations,
    positions: usize,
    k: usize,
    input: Vec<f32>,
    values: Vec<i8>,
    scales: Vec<f32>,
    corrections: Vec<i32>,
    halves: Vec<u16>,
    output: Vec<f32>,
}

impl Layer {
    fn new(kernels: &Kernels, kind: Activations, positions: usize, n: usize, k: usize) -> Self {
        let count = QuantizedRows::n_scales(positions, k);
        let mut layer = Self {
            kind,
            positions,
            k,
            input: (0..positions * k).map(|i| (i % 37) as f32 / 37.0 - 0.5).collect(),
            values: vec![0; count * GROUP],
            scales: vec![0.0; count],
            corrections: vec![0; count],
            halves: vec![0x3f80; positions * k],
            output: vec![0.0; positions * n],
        };
        let output = layer.quantized();
        let params = QuantizeActivations {
            input: Rows::of(&layer.input, k),
            output,
            positions: 0..positions,
            groups: 0..output.groups(),
        };
        // SAFETY: all buffers have the documented sizes.
        unsafe { (kernels.quantize_activations)(&params) };
        layer
    }

    fn quantized(&mut self) -> QuantizedRows {
        QuantizedRows {
            values: self.values.as_mut_ptr(),
            scales: self.scales.as_mut_ptr(),
            corrections: self.corrections.as_mut_ptr(),
            positions: self.positions,
            k: self.k,
        }
    }

    fn run(&mut self, pool: &WorkerPool, kernels: &Kernels, weights: PanelWeights) {
        let (positions, bias) = (self.positions, None);
        let quantized = self.quantized();
        let output = RowsMut::of(&mut self.output, weights.n);
        let (input, halves) = (Rows::of(&self.input, self.k), Rows::of(&self.halves, self.k));
        let kind = self.kind;
        pool.run(|worker| {
            let panels = worker.share(weights.n_panels());
            // SAFETY: all buffers have the documented sizes, and no two workers share a panel.
            unsafe {
                match kind {
                    Activations::Int8 => {
                        (kernels.linear_int8)(&LinearInt8 { weights, activations: quantized, output, bias, panels })
                    }
                    Activations::Float => (kernels.linear_float)(&LinearFloat {
                        weights,
                        activations: input,
                        output,
                        bias,
                        positions,
                        panels,
                    }),
                    Activations::Bf16 => {
                        let linear = kernels.linear_bf16.expect("checked by the caller");
                        linear(&LinearBf16 { weights, activations: halves, output, bias, positions, panels });
                    }
                }
            }
        })
        .expect("no panic");
    }
}

/// GB/s of weights in decode, over matrices that lie one after the other in `memory`.
fn decode(
    pool: &WorkerPool,
    kernels: &Kernels,
    memory: &[Line],
    format: WeightFormat,
    (n, k): (usize, usize),
    kind: Activations,
) -> f64 {
    let mut layer = Layer::new(kernels, kind, 1, n, k);
    let lines = n.div_ceil(PANEL_ROWS) * format.panel_bytes(k) / 64;
    let copies = memory.len() / lines;
    let mut next = 0;
    let time = median((copies * 2).min(60), || {
        let panels = memory[next % copies * lines..].as_ptr().cast();
        next += 1;
        layer.run(pool, kernels, PanelWeights { format, panels, n, k });
    });
    black_box(&layer.output);
    (lines * 64) as f64 / time.as_secs_f64() / 1e9
}

/// Gop/s in prefill.
fn prefill(
    pool: &WorkerPool,
    kernels: &Kernels,
    memory: &[Line],
    format: WeightFormat,
    (n, k): (usize, usize),
    kind: Activations,
) -> f64 {
    let mut layer = Layer::new(kernels, kind, PREFILL, n, k);
    let panels = memory.as_ptr().cast();
    let time = median(7, || layer.run(pool, kernels, PanelWeights { format, panels, n, k }));
    black_box(&layer.output);
    (2 * PREFILL * n * k) as f64 / time.as_secs_f64() / 1e9
}

/// The time of one layer's attention with an f16 cache: 32 heads of 64, 8 of keys and values.
fn attention(pool: &WorkerPool, kernels: &Kernels, positions: usize, past: usize) -> Duration {
    let (kv_heads, group, head_dim, context) = (8, 4, 64, 1024);
    let width = kv_heads * group * head_dim;
    let query = vec![0.1f32; positions * width];
    let mut output = vec![0.0f32; positions * width];
    let cache = vec![0u16; kv_heads * context * head_dim];
    let params = Attention {
        query: Rows::of(&query, width),
        keys: Rows { first: cache.as_ptr().cast(), stride: head_dim * 2 },
        values: Rows { first: cache.as_ptr().cast(), stride: head_dim * 2 },
        element: Element::F16,
        output: RowsMut::of(&mut output, width),
        past,
        context,
        group,
        head_dim,
        scale: 0.125,
    };
    let blocks = positions.div_ceil(16);
    median(9, || {
        pool.run(|worker| {
            let mut scratch = AttentionScratch::new(head_dim);
            for unit in (worker.index()..kv_heads * blocks).step_by(worker.n_workers()) {
                let start = unit / kv_heads * 16;
                let cut = AttentionCut {
                    kv_head: unit % kv_heads,
                    heads: 0..group,
                    positions: start..(start + 16).min(positions),
                };
                // SAFETY: all matrices have the documented shapes, and no two workers share a cut.
                unsafe { (kernels.attention)(&params, &cut, &mut scratch) };
            }
        })
        .expect("no panic");
    })
}
