//! What the paper gives as numbers in its text: HeteroLLM / HeteroInfer, arXiv 2501.14794 v2, on a Snapdragon 8 Gen 3.

/// Prefill of 256 tokens by Hetero-tensor in tokens per second, with and without fast synchronisation (section 5.5).
pub(crate) const PREFILL_TENSOR: f64 = 236.92;
pub(crate) const PREFILL_TENSOR_WITHOUT_FAST_SYNC: f64 = 196.44;
/// Gain of Hetero-tensor over Hetero-layer in prefill: on average, and with 32 tokens, where it is largest (section 5.2).
pub(crate) const TENSOR_OVER_LAYER: f64 = 1.302;
pub(crate) const TENSOR_OVER_LAYER_AT_32: f64 = 1.408;
/// Prefill of 256 tokens by Hetero-layer, which follows from the average gain.
pub(crate) const PREFILL_LAYER: f64 = PREFILL_TENSOR / TENSOR_OVER_LAYER;
/// Decoding behind 256 tokens by Hetero-tensor in tokens per second, and its gain over Hetero-layer (section 5.4).
pub(crate) const DECODE_TENSOR: f64 = 14.01;
pub(crate) const DECODE_TENSOR_OVER_LAYER: f64 = 1.22;
/// Bandwidth in decoding: of the GPU alone and of GPU and NPU together, in bytes per second (section 5.4).
pub(crate) const GPU_BYTES_PER_SECOND: f64 = 43.3e9;
pub(crate) const TOGETHER_BYTES_PER_SECOND: f64 = 59.5e9;
/// The NPU's share of it (section 3.3).
pub(crate) const NPU_SHARE: f64 = 0.25;
/// Gains by fast synchronisation: in prefill on average over 64, 256 and 1024 tokens, by layer and by tensor, and in
/// decoding by Hetero-tensor (section 5.5).
pub(crate) const FAST_SYNC_LAYER: f64 = 1.158;
pub(crate) const FAST_SYNC_TENSOR: f64 = 1.243;
pub(crate) const FAST_SYNC_DECODE: f64 = 4.01;
/// Just above a standard length, padding takes so many times as long, on average (section 5.3.2).
pub(crate) const PADDING: f64 = 1.91;
/// By how much Hetero-tensor's prefill is shorter than that of NPU-pipe: least and most (section 5.3.2).
pub(crate) const OVER_PIPE: [f64; 2] = [0.132, 0.301];
/// Online-prepare with 135 tokens: seconds of preparing, and their share of all (section 5.3.2).
pub(crate) const ONLINE_LENGTH: usize = 135;
pub(crate) const ONLINE_PREPARE_SECONDS: f64 = 0.4084;
pub(crate) const ONLINE_PREPARE_SHARE: f64 = 0.346;
/// Power of Hetero-layer in prefill in watts; energy of Hetero-tensor over GPU-only and over Hetero-layer, 256 tokens
/// and 32 behind them (section 5.8).
pub(crate) const LAYER_WATTS: f64 = 2.23;
pub(crate) const TENSOR_ENERGY_OVER_GPU: f64 = 0.45;
pub(crate) const TENSOR_ENERGY_OVER_LAYER: f64 = 1.0 - 0.128;
