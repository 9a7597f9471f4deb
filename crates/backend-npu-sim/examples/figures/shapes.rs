//! How much faster than the GPU the NPU is, for the shapes of a layer.

use std::path::Path;

use anyhow::Result;
use hetero_core::DeviceKind;
use plotters::prelude::*;

use crate::Source;
use crate::chart::{self, CPU, INK, Mark, NPU, THIRD};
use crate::paper::Shape;

const MOST_ROWS: usize = 1024;

/// Draws the figure.
pub(crate) fn draw(source: &Source, path: &Path) -> Result<()> {
    let page = chart::page(
        path,
        "Where the NPU is ahead depends on shape and rows",
        "Speed of the NPU over that of the GPU, operators measured one by one, simulated Snapdragon 8 Gen 3",
    )?;
    let mut axes = chart::sheet(&page, [46, 62])
        .build_cartesian_2d((0.9..1100.0).log_scale().base(2.0), (0.125..16.0).log_scale().base(2.0))?;
    let mut mesh = axes.configure_mesh();
    chart::style(&mut mesh)
        .x_desc("rows of activations")
        .y_desc("NPU's speed over the GPU's")
        .x_labels(11)
        .y_labels(8)
        .x_label_formatter(&|rows| format!("{rows:.0}"))
        .y_label_formatter(&|ratio| if *ratio < 1.0 { format!("1/{:.0}", 1.0 / ratio) } else { format!("{ratio:.0}") })
        .draw()?;
    axes.draw_series([PathElement::new([(0.9, 1.0), (1100.0, 1.0)], INK.stroke_width(1))])?;

    let shapes = [
        ("FFN-gate and -up", 28672, 4096, NPU),
        ("attention projection", 4096, 4096, CPU),
        ("FFN-down", 4096, 14336, THIRD),
    ];
    for (_, n, k, color) in shapes {
        let ratio = |m: usize| {
            let seconds = |kind| source.phone.operator_seconds(kind, Shape { m, n, k });
            seconds(DeviceKind::Gpu) / seconds(DeviceKind::Npu)
        };
        let line = (1..=MOST_ROWS).map(|m| (m as f64, ratio(m)));
        axes.draw_series(LineSeries::new(line, color.stroke_width(3)))?;
    }
    for (name, rows, color) in [
        ("attention projection, 1 row", 1.0, CPU),
        ("FFN-gate and -up, 1 row", 1.0, NPU),
        ("FFN-down, 1 row", 1.0, THIRD),
        ("attention projection, 128 rows", 128.0, CPU),
        ("attention projection, 256 rows", 256.0, CPU),
        ("FFN-down, 256 rows", 256.0, THIRD),
    ] {
        let (gpu, npu) = (source.fact(&format!("{name}, GPU"))?.0, source.fact(&format!("{name}, NPU"))?.0);
        let point = (rows, gpu / npu);
        axes.draw_series([Circle::new(point, 7, INK.filled()), Circle::new(point, 5, color.filled())])?;
    }
    axes.draw_series([
        Text::new("NPU ahead", (300.0, 1.12), chart::beside(13, &INK)),
        Text::new("GPU ahead", (300.0, 0.885), chart::beside(13, &INK)),
    ])?;
    chart::legend(
        &page,
        (600, 354),
        &[
            (Mark::Line(NPU), "FFN-gate and -up, 28672 x 4096"),
            (Mark::Line(CPU), "projection, 4096 x 4096"),
            (Mark::Line(THIRD), "FFN-down, 4096 x 14336"),
            (Mark::Point(INK), "paper, table 3"),
        ],
    )?;
    chart::finish(&page, path)
}
