//! The same product with either operand kept in the NPU's array.

use std::path::Path;

use anyhow::Result;
use hetero_core::{DeviceKind, OperandOrder};
use plotters::prelude::*;

use crate::Source;
use crate::chart::{self, GPU, INK, Mark, NPU, THIRD};
use crate::paper::Shape;

const ROWS: std::ops::RangeInclusive<usize> = 32..=1024;

/// Draws the figure.
pub(crate) fn draw(source: &Source, path: &Path) -> Result<()> {
    let page = chart::page(
        path,
        "Which operand stays in the array decides",
        "FFN-up, [14336, 4096] x [4096, rows], on the simulated Snapdragon 8 Gen 3",
    )?;
    let mut axes = chart::sheet(&page, [46, 54]).build_cartesian_2d(0.0..1024.0, (1.0..256.0).log_scale().base(2.0))?;
    let mut mesh = axes.configure_mesh();
    chart::style(&mut mesh)
        .x_desc("rows of activations")
        .y_desc("time, ms")
        .disable_x_mesh()
        .x_labels(0)
        .y_labels(12)
        .y_label_formatter(&|ms| format!("{ms:.0}"))
        .draw()?;
    for rows in (0..=1024).step_by(128) {
        let [floor, ceiling] = [1.0, 256.0].map(|ms| axes.backend_coord(&(f64::from(rows), ms)));
        chart::tick(&page, floor, ceiling, &rows.to_string())?;
    }
    let ms = |kind, rows: usize, order| {
        source.phone.product(kind, Shape { m: rows, n: 14336, k: 4096 }, order).alone_seconds() * 1e3
    };
    let (good, bad) = (OperandOrder::ActivationStationary, OperandOrder::WeightStationary);
    for (kind, order, color) in
        [(DeviceKind::Gpu, good, GPU), (DeviceKind::Npu, bad, THIRD), (DeviceKind::Npu, good, NPU)]
    {
        let line = ROWS.map(|rows| (rows as f64, ms(kind, rows, order)));
        axes.draw_series(LineSeries::new(line, color.stroke_width(3)))?;
    }
    let ratio = ms(DeviceKind::Npu, 256, bad) / ms(DeviceKind::Npu, 256, good);
    let stated = source.fact("NPU: activations streaming over activations staying, FFN-up, 256 rows")?.0;
    let ends = [ms(DeviceKind::Npu, 256, good), ms(DeviceKind::Npu, 256, bad)];
    axes.draw_series([PathElement::new(ends.map(|ms| (256.0, ms)), INK.stroke_width(1))])?;
    axes.draw_series(ends.map(|ms| Circle::new((256.0, ms), 4, INK.filled())))?;
    axes.draw_series([Text::new(
        format!("{ratio:.1} times; the paper: {stated:.0} times"),
        (268.0, (ends[0] * ends[1]).sqrt()),
        chart::beside(15, &INK),
    )])?;
    chart::legend(
        &page,
        (600, 372),
        &[
            (Mark::Line(THIRD), "NPU, weights stay"),
            (Mark::Line(GPU), "GPU"),
            (Mark::Line(NPU), "NPU, activations stay"),
        ],
    )?;
    chart::finish(&page, path)
}
