import type { FinetuneEntry } from './finetune.ts';

const [width, height] = [640, 320];
const margin = { left: 56, right: 16, top: 30, bottom: 40 };

/** KL over steps as SVG text: held-out windows as a line with points, training as a thin line. */
export function curve(history: readonly FinetuneEntry[], title: string): string {
  const lastStep = Math.max(1, ...history.map(({ step }) => step));
  const largest = Math.max(1e-6, ...history.flatMap(({ kl, trainingKl = 0 }) => [kl, trainingKl]));
  const x = (step: number) =>
    round(margin.left + (step / lastStep) * (width - margin.left - margin.right));
  const y = (kl: number) =>
    round(height - margin.bottom - (kl / largest) * (height - margin.top - margin.bottom));
  const line = (points: readonly string[], style: string) =>
    `<polyline fill="none" stroke="${style}" points="${points.join(' ')}"/>`;
  const label = (at: string, anchor: string, text: string) =>
    `<text ${at} text-anchor="${anchor}" font-size="11" fill="#555">${text}</text>`;
  const trained = history.filter(({ trainingKl }) => trainingKl !== undefined);
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" font-family="sans-serif">`,
    `<rect width="${width}" height="${height}" fill="#fff"/>`,
    label(`x="${margin.left}" y="18"`, 'start', escape(title)),
    ...[0, 0.5, 1].flatMap((share) => [
      `<path stroke="#ddd" d="M${margin.left} ${y(share * largest)}H${width - margin.right}"/>`,
      label(`x="${margin.left - 6}" y="${y(share * largest) + 4}"`, 'end', number(share * largest)),
      label(`x="${x(share * lastStep)}" y="${height - 22}"`, 'middle', number(share * lastStep)),
    ]),
    label(`x="${width / 2}" y="${height - 6}"`, 'middle', 'steps'),
    line(
      trained.map(({ step, trainingKl = 0 }) => `${x(step)},${y(trainingKl)}`),
      '#bbb',
    ),
    line(
      history.map(({ step, kl }) => `${x(step)},${y(kl)}`),
      '#1a6',
    ),
    ...history.map(({ step, kl }) => `<circle cx="${x(step)}" cy="${y(kl)}" r="2.5" fill="#1a6"/>`),
    '</svg>\n',
  ].join('\n');
}

const round = (value: number) => Math.round(value * 10) / 10;
const number = (value: number) => String(Number(value.toPrecision(3)));
const escape = (text: string) => text.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
