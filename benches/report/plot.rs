//! Curves of time against size, both axes logarithmic, as SVG.

use plotters::prelude::*;

const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// Draws curves of milliseconds against a size; those without a point are left out.
pub(crate) fn draw(path: &str, of: &str, curves: &[(&str, Vec<(f64, f64)>)]) {
    let points = || curves.iter().flat_map(|(_, points)| points);
    if points().count() == 0 {
        return;
    }
    let range = |values: &mut dyn Iterator<Item = f64>| {
        values.fold((f64::MAX, f64::MIN), |(least, most), value| (least.min(value), most.max(value)))
    };
    let x = range(&mut points().map(|(x, _)| *x));
    let y = range(&mut points().map(|(_, y)| *y));
    let area = SVGBackend::new(path, (720, 440)).into_drawing_area();
    area.fill(&WHITE).unwrap();
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((x.0..x.1 * 1.2).log_scale(), (y.0 * 0.7..y.1 * 1.5).log_scale())
        .unwrap();
    chart.configure_mesh().x_desc(of).y_desc("milliseconds").light_line_style(WHITE).draw().unwrap();
    for ((name, points), colour) in curves.iter().zip(COLOURS) {
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)).point_size(3))
            .unwrap()
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .unwrap();
    area.present().unwrap();
}
