//! Costs from measurements.

use hetero_core::{DeviceInfo, DeviceKind, Graph, NodeId, Op, OpSpec, OperandOrder};

use crate::profile::predict::{Errors, Predictor};
use crate::profile::{OperatorProfile, Profile, Sample, Traffic, operator_key};
use crate::timing::fair_shares;

use super::{ClassId, CostModel, DeviceCosts, MAX_DEVICES, PartShape};

/// A cost model that answers from a [`Profile`], for the operators of one graph.
#[derive(Debug)]
pub struct ProfiledCosts {
    devices: Vec<DeviceCosts>,
    /// Watts that each device takes while it works, which no profile measures.
    active_watts: Vec<f64>,
    idle_watts: f64,
    classes: Vec<Class>,
    /// For each set of devices (by its bits) and each of them, the slowdown with one row and with many: what counts
    /// without a bus.
    slowdowns: Vec<Vec<[f64; 2]>>,
    /// Bytes per second; infinite without a bus.
    bus: f64,
    /// For each device, by how much what a submission costs may be off; `None` where measurements are exact.
    submission_errors: Option<Vec<f64>>,
}

#[derive(Debug)]
struct Class {
    spec: OpSpec,
    /// Columns of all of it.
    columns: usize,
    is_linear: bool,
    /// By device.
    on: Vec<Option<Measured>>,
}

#[derive(Debug)]
struct Measured {
    predictor: Predictor,
    /// Columns that were measured at most: all, for operators other than linear ones.
    columns: usize,
    own_bytes_per_column: f64,
    /// Bytes over the bus, where that was measured.
    traffic: Option<Predictor>,
    /// Bytes per second of all columns, by the logarithm of the rows.
    rates: [f64; N_RATES],
    compiling: Compiling,
    /// Seconds for one position that looks back at nothing, which is next to nothing but starting.
    starting_seconds: f64,
    /// Rows, past positions, columns and relative error of each measurement, and the median of these errors.
    measured: Vec<([usize; 3], f64)>,
    usual_error: f64,
}

/// What compiling takes: a graph of its own, and what grows with the rows times the columns.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Compiling {
    seconds: f64,
    seconds_per_element: f64,
}

impl Compiling {
    /// The line through the samples with the least squares, of those that rise from no less than zero.
    fn fit(samples: &[Sample]) -> Compiling {
        let elements = |sample: &Sample| (sample.rows * sample.columns) as f64;
        let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / samples.len() as f64;
        let (x, y) = (mean(&elements), mean(&|sample| sample.compile_seconds));
        let spread = mean(&|sample| (elements(sample) - x).powi(2));
        let together = mean(&|sample| (elements(sample) - x) * (sample.compile_seconds - y));
        let slope = if spread > 0.0 { (together / spread).clamp(0.0, y / x) } else { 0.0 };
        Compiling { seconds: y - slope * x, seconds_per_element: slope }
    }
}

/// Rates are kept for this many powers of two of rows.
const N_RATES: usize = 12;

/// What a profile does not know.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProfiledOptions {
    /// Whether the host polls, rather than blocks, when it waits.
    pub is_polling: bool,
    /// Watts that each device takes while it works; missing ones count as zero.
    pub active_watts: Vec<f64>,
    /// Watts of the machine when nothing runs.
    pub idle_watts: f64,
    /// The number of the memory that each device computes in; missing ones are the first.
    pub memories: Vec<usize>,
    /// Whether costs are taken for as uncertain as measurements and predictions are, so that a plan for several devices
    /// must be better than one device by more. Not where time is simulated.
    pub weighs_errors: bool,
}

/// No clock tells time better.
const CLOCK_SECONDS: f64 = 1e-9;

/// How far predictions are taken to be off of which none could be checked: what is usual of those that can.
const UNCHECKED_ERROR: f64 = 0.1;

impl ProfiledCosts {
    /// Costs of the operators of a graph.
    ///
    /// # Panics
    /// When the profile is not of these devices.
    pub fn new(profile: &Profile, infos: &[DeviceInfo], graph: &Graph, options: &ProfiledOptions) -> ProfiledCosts {
        assert_eq!(profile.devices.len(), infos.len(), "a profile of other devices");
        let devices: Vec<DeviceCosts> = profile
            .devices
            .iter()
            .zip(infos)
            .enumerate()
            .map(|(device_idx, (device, info))| {
                assert_eq!(device.identity.name, info.name, "a profile of another device");
                let overheads = &device.overheads;
                let is_npu = info.kind == DeviceKind::Npu;
                let samples = || device.operators.iter().flat_map(|operator| &operator.samples);
                let mut standard_rows: Vec<usize> =
                    if is_npu { samples().map(|sample| sample.rows).collect() } else { Vec::new() };
                standard_rows.sort_unstable();
                standard_rows.dedup();
                DeviceCosts {
                    submit_seconds: overheads.submit_seconds,
                    submit_idle_seconds: overheads.submit_idle_seconds,
                    start_seconds: overheads.start_seconds,
                    sync_seconds: if options.is_polling {
                        overheads.poll_sync_seconds
                    } else {
                        overheads.block_sync_seconds
                    },
                    row_alignment: info.weight_row_alignment,
                    standard_rows,
                    order_sensitive: is_npu,
                    max_segment_weight_bytes: info.max_segment_weight_bytes,
                    max_graphs: info.max_graphs,
                    memory: options.memories.get(device_idx).copied().unwrap_or(0),
                    copy_seconds: overheads.copy_seconds,
                    copy_seconds_per_byte: overheads.copy_seconds_per_byte,
                    ..DeviceCosts::new(&info.name, info.kind)
                }
            })
            .collect();
        let mut classes: Vec<Class> = Vec::new();
        for idx in 0..graph.nodes().len() {
            let spec = graph.op_spec(NodeId(idx));
            if classes.iter().any(|class| class.spec == spec) {
                continue;
            }
            let key = operator_key(&spec);
            let on = profile.devices.iter().enumerate().map(|(device_idx, device)| {
                let traffic = traffic(profile, device_idx, &key);
                measured(device.operator(&key)?, infos[device_idx].kind, &traffic)
            });
            classes.push(Class {
                columns: spec.op.output_columns(),
                is_linear: matches!(spec.op, Op::Linear { .. }),
                on: on.collect(),
                spec,
            });
        }
        let active_watts = (0..infos.len()).map(|idx| options.active_watts.get(idx).copied().unwrap_or(0.0)).collect();
        let bus = profile.bus.as_ref().and_then(|bus| bus.bytes_per_second).unwrap_or(f64::INFINITY);
        let slowdowns = slowdowns(profile);
        let submission_errors = options
            .weighs_errors
            .then(|| profile.devices.iter().map(|device| device.overheads.error_seconds).collect());
        let idle_watts = options.idle_watts;
        ProfiledCosts { slowdowns, devices, active_watts, idle_watts, classes, bus, submission_errors }
    }

    /// For each operator and device by name, the errors on measurements that were held out.
    pub fn errors(&self) -> impl Iterator<Item = (String, &str, Errors)> {
        self.classes.iter().flat_map(move |class| {
            let measured = self.devices.iter().zip(&class.on);
            measured.filter_map(move |(device, measured)| {
                Some((class.spec.to_string(), device.name.as_str(), measured.as_ref()?.predictor.errors()))
            })
        })
    }

    /// By what a part takes longer beside companions that compute the same.
    fn stretch(&self, device_idx: usize, shape: &PartShape) -> f64 {
        let mut rates = [0.0; MAX_DEVICES];
        for device in shape.companions.with(device_idx).iter() {
            let measured = self.measured(device, shape.class);
            rates[device] = measured.map_or(0.0, |(_, measured)| measured.rates[log_rows(shape.rows)]);
        }
        if rates.iter().sum::<f64>() <= self.bus {
            return 1.0;
        }
        let share = fair_shares(rates, self.bus)[device_idx];
        if share > 0.0 { rates[device_idx] / share } else { 1.0 }
    }

    fn measured(&self, device_idx: usize, class: ClassId) -> Option<(&Class, &Measured)> {
        let class = self.classes.get(class.0)?;
        Some((class, class.on[device_idx].as_ref()?))
    }
}

impl CostModel for ProfiledCosts {
    fn devices(&self) -> &[DeviceCosts] {
        &self.devices
    }

    fn class(&self, spec: &OpSpec) -> ClassId {
        ClassId(self.classes.iter().position(|class| class.spec == *spec).unwrap_or(usize::MAX))
    }

    fn seconds(&self, device_idx: usize, shape: &PartShape) -> Option<f64> {
        self.seconds_alone_and_beside(device_idx, shape).map(|[_, beside]| beside)
    }

    fn seconds_alone_and_beside(&self, device_idx: usize, shape: &PartShape) -> Option<[f64; 2]> {
        let (class, measured) = self.measured(device_idx, shape.class)?;
        let is_weight_stationary = shape.order == OperandOrder::WeightStationary;
        let of = |columns| measured.predictor.seconds(shape.rows, shape.past, columns, is_weight_stationary);
        let alone = if class.is_linear {
            of(shape.columns)
        } else {
            // Measured whole: a part takes its share, but of starting, which it takes as long as the whole for.
            let whole = of(measured.columns);
            let starting = measured.starting_seconds.min(whole);
            starting + (whole - starting) * shape.columns as f64 / class.columns as f64
        };
        if shape.companions.is_empty() {
            return Some([alone; 2]);
        }
        if self.bus.is_finite() {
            return Some([alone, alone * self.stretch(device_idx, shape)]);
        }
        let set = shape.companions.with(device_idx);
        let slowdown = self.slowdowns[usize::from(set.bits())].get(device_idx);
        Some([alone, alone * slowdown.map_or(1.0, |[one, many]| if shape.rows == 1 { *one } else { *many })])
    }

    fn bus_bytes(&self, device_idx: usize, shape: &PartShape) -> f64 {
        let Some((class, measured)) = self.measured(device_idx, shape.class) else { return 0.0 };
        let Some(traffic) = &measured.traffic else { return 0.0 };
        if class.is_linear {
            traffic.seconds(shape.rows, shape.past, shape.columns, false)
        } else {
            let all = traffic.seconds(shape.rows, shape.past, measured.columns, false);
            all * shape.columns as f64 / class.columns as f64
        }
    }

    fn bus(&self) -> f64 {
        self.bus
    }

    fn uncertainty(&self, device_idx: usize, shape: &PartShape) -> f64 {
        if self.submission_errors.is_none() {
            return 0.0;
        }
        let Some((class, measured)) = self.measured(device_idx, shape.class) else { return 0.0 };
        // A part of an operator that was measured whole takes its share of it.
        let columns = if class.is_linear { shape.columns } else { measured.columns };
        let of_shape = |known: &&([usize; 3], f64)| known.0 == [shape.rows, shape.past, columns];
        if let Some((_, error)) = measured.measured.iter().find(of_shape) {
            return *error;
        }
        let held_out = measured.predictor.errors();
        let predicted = if held_out.n > 0 { held_out.median } else { UNCHECKED_ERROR };
        predicted.hypot(measured.usual_error)
    }

    fn submission_uncertainty(&self, device_idx: usize) -> f64 {
        self.submission_errors.as_ref().map_or(0.0, |errors| errors[device_idx].max(CLOCK_SECONDS))
    }

    fn joules(&self, device_idx: usize, shape: &PartShape) -> f64 {
        self.active_watts[device_idx] * self.seconds(device_idx, shape).unwrap_or(0.0)
    }

    fn idle_watts(&self) -> f64 {
        self.idle_watts
    }

    fn own_bytes(&self, device_idx: usize, class: ClassId, columns: usize) -> u64 {
        self.measured(device_idx, class)
            .map_or(0, |(_, measured)| (measured.own_bytes_per_column * columns as f64).round() as u64)
    }

    fn compile_seconds(&self, device_idx: usize, shape: &PartShape) -> f64 {
        let elements = (shape.rows * shape.columns) as f64;
        self.measured(device_idx, shape.class)
            .map_or(0.0, |(_, Measured { compiling, .. })| compiling.seconds + compiling.seconds_per_element * elements)
    }
}

/// Which of the rates is for so many rows.
fn log_rows(rows: usize) -> usize {
    (rows.max(1).ilog2() as usize).min(N_RATES - 1)
}

/// What was seen of an operator on the bus, as samples of bytes.
fn traffic(profile: &Profile, device_idx: usize, key: &str) -> Vec<Sample> {
    let all = profile.bus.iter().flat_map(|bus| &bus.traffic);
    let of_operator = all.filter(|traffic| traffic.device == device_idx && traffic.operator == key);
    let sample = |traffic: &Traffic| Sample {
        rows: traffic.rows,
        past: traffic.past,
        columns: traffic.columns,
        is_weight_stationary: false,
        seconds: traffic.bytes,
        compile_seconds: 0.0,
        error: 0.0,
        spread: 0.0,
    };
    of_operator.map(sample).collect()
}

fn measured(operator: &OperatorProfile, kind: DeviceKind, traffic: &[Sample]) -> Option<Measured> {
    let predictor = Predictor::fit(&operator.samples, kind)?;
    let traffic = Predictor::pieces(traffic, kind);
    let samples = &operator.samples;
    let columns = samples.iter().map(|sample| sample.columns).max().unwrap_or(0);
    let mut rates = [0.0; N_RATES];
    for (log, rate) in rates.iter_mut().enumerate() {
        let seconds = predictor.seconds(1 << log, 0, columns, false);
        let bytes = traffic.as_ref().map_or(0.0, |traffic| traffic.seconds(1 << log, 0, columns, false));
        *rate = if seconds > 0.0 { bytes / seconds } else { 0.0 };
    }
    let of_sample = |sample: &Sample| ([sample.rows, sample.past, sample.columns], sample.error);
    let measured: Vec<([usize; 3], f64)> = samples.iter().map(of_sample).collect();
    let mut errors: Vec<f64> = samples.iter().map(|sample| sample.error).collect();
    errors.sort_by(f64::total_cmp);
    let single = samples.iter().find(|sample| (sample.rows, sample.past, sample.columns) == (1, 0, columns));
    Some(Measured {
        starting_seconds: single.map_or(0.0, |sample| sample.seconds),
        usual_error: errors[errors.len() / 2],
        measured,
        predictor,
        traffic,
        rates,
        columns,
        own_bytes_per_column: operator.own_bytes_per_column,
        compiling: Compiling::fit(samples),
    })
}

fn slowdowns(profile: &Profile) -> Vec<Vec<[f64; 2]>> {
    let n_devices = profile.devices.len();
    let mut slowdowns = vec![vec![[1.0; 2]; n_devices]; 1 << super::MAX_DEVICES];
    for together in &profile.together {
        let set: super::DeviceSet = together.devices.iter().copied().collect();
        for (&device, &slowdown) in together.devices.iter().zip(&together.slowdowns) {
            slowdowns[usize::from(set.bits())][device][usize::from(together.rows > 1)] = slowdown;
        }
    }
    slowdowns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(rows: usize, columns: usize, compile_seconds: f64) -> Sample {
        let (seconds, error, spread) = (0.0, 0.0, 0.0);
        Sample { rows, past: 0, columns, is_weight_stationary: false, seconds, compile_seconds, error, spread }
    }

    #[test]
    fn a_graph_takes_time_to_compile_however_small_it_is() {
        let line = |rows: usize, columns: usize| sample(rows, columns, 0.026 + 3e-7 * (rows * columns) as f64);
        let fitted = Compiling::fit(&[line(1, 4096), line(128, 1024), line(512, 4096)]);
        assert!(
            (fitted.seconds - 0.026).abs() < 1e-9 && (fitted.seconds_per_element - 3e-7).abs() < 1e-12,
            "{fitted:?}"
        );
    }

    #[test]
    fn noise_gives_neither_negative_times_nor_falling_ones() {
        let falling = Compiling::fit(&[sample(1, 100, 2.0), sample(1, 300, 1.0)]);
        assert_eq!(falling, Compiling { seconds: 1.5, seconds_per_element: 0.0 });
        let steep = Compiling::fit(&[sample(1, 100, 0.0), sample(1, 300, 2.0)]);
        assert_eq!(steep, Compiling { seconds: 0.0, seconds_per_element: 1.0 / 200.0 });
        assert_eq!(Compiling::fit(&[sample(1, 10, 0.5)]), Compiling { seconds: 0.5, seconds_per_element: 0.0 });
    }
}
