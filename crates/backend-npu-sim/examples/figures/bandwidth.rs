//! Memory bandwidth of each processor alone and of GPU and NPU together.

use std::path::Path;

use anyhow::Result;
use hetero_core::DeviceKind;
use plotters::prelude::*;

use crate::Source;
use crate::chart::{self, CPU, GPU, INK, Mark, NPU, PALE};
use crate::streams::{Load, bytes_per_second};

const MOST: f64 = 75.0;
/// Half the width of a bar, and where the two bars of a group stand.
const HALF_BAR: f64 = 0.15;
const OFFSET: f64 = 0.19;

/// Draws the figure.
pub(crate) fn draw(source: &Source, path: &Path) -> Result<()> {
    let page = chart::page(
        path,
        "One processor alone leaves bandwidth unused",
        "Memory bandwidth on the simulated Snapdragon 8 Gen 3: vectors being added (pale), 4-bit products of one row (full)",
    )?;
    let soc = &source.phone.soc;
    let mut axes = chart::sheet(&page, [34, 54]).build_cartesian_2d(-0.55..5.25, 0.0..MOST)?;
    let mut mesh = axes.configure_mesh();
    chart::style(&mut mesh)
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc("GB/s")
        .y_labels(8)
        .y_label_formatter(&|gb| format!("{gb:.0}"))
        .draw()?;
    for (value, text) in
        [(soc.bus.peak_bytes_per_second / 1e9, "in theory"), (soc.bus.combined_bytes_per_second / 1e9, "attainable")]
    {
        axes.draw_series([PathElement::new([(-0.55, value), (5.25, value)], PALE.stroke_width(1))])?;
        let text = format!("{value} {text}");
        axes.draw_series([Text::new(text, (-0.5, value + 1.9), chart::beside(13, &PALE))])?;
    }
    let groups: [(&str, &[DeviceKind]); 4] = [
        ("CPU alone", &[DeviceKind::Cpu]),
        ("GPU alone", &[DeviceKind::Gpu]),
        ("NPU alone", &[DeviceKind::Npu]),
        ("GPU and NPU", &[DeviceKind::Gpu, DeviceKind::Npu]),
    ];
    for (idx, (name, kinds)) in groups.into_iter().enumerate() {
        let x = idx as f64;
        for (load, at, strength) in [(Load::Copying, x - OFFSET, 0.4), (Load::Decoding, x + OFFSET, 1.0)] {
            let mut bottom = 0.0;
            for (kind, rate) in kinds.iter().zip(bytes_per_second(soc, kinds, load)?) {
                let top = bottom + rate / 1e9;
                let color = color_of(*kind);
                let corners = [(at - HALF_BAR, bottom), (at + HALF_BAR, top)];
                axes.draw_series([Rectangle::new(corners, color.mix(strength).filled())])?;
                let ink = if strength < 1.0 { &INK } else { &WHITE };
                let middle = (at, (bottom + top) / 2.0);
                axes.draw_series([Text::new(format!("{:.1}", rate / 1e9), middle, chart::centred(14, ink))])?;
                bottom = top;
            }
        }
        let (middle, floor) = axes.backend_coord(&(x, 0.0));
        page.draw(&Text::new(name, (middle, floor + 18), chart::centred(15, &INK)))?;
    }
    // The paper's ranges and points.
    for (idx, fact) in [
        (0.0, "bandwidth, CPU alone, products of a token"),
        (2.0, "bandwidth, NPU alone, products but FFN-down"),
        (1.0, "bandwidth, NPU alone, products but FFN-down"),
    ] {
        let (least, most) = source.fact(fact)?;
        let corners = [(idx - 0.4, least), (idx + 0.4, most)];
        axes.draw_series([
            Rectangle::new(corners, INK.mix(0.16).filled()),
            Rectangle::new(corners, INK.mix(0.5).stroke_width(1)),
        ])?;
    }
    for (x, fact) in [
        (1.0, "bandwidth, GPU alone, products of a token"),
        (3.0, "bandwidth, GPU and NPU together, products but FFN-down"),
    ] {
        let point = (x + OFFSET, source.fact(fact)?.0);
        axes.draw_series([Circle::new(point, 7, WHITE.filled()), Circle::new(point, 5, INK.filled())])?;
    }
    chart::legend(
        &page,
        (616, 290),
        &[(Mark::Point(INK), "paper, in decoding"), (Mark::Range, "paper, 40 to 45 GB/s each")],
    )?;
    chart::finish(&page, path)
}

fn color_of(kind: DeviceKind) -> RGBColor {
    match kind {
        DeviceKind::Cpu => CPU,
        DeviceKind::Gpu => GPU,
        DeviceKind::Npu => NPU,
    }
}
