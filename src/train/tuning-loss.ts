/** What finetuning makes small, over the positions of one window. */
export interface WindowLoss {
  /** mean KL(teacher || student) of the next-token distributions, nats */
  readonly kl: number;
  /** mean -ln p of the tokens that follow, by the student, nats */
  readonly student: number;
  /** the same by the teacher */
  readonly teacher: number;
}

/**
 * KL + languageWeight * (mean -ln p of the next token), and its gradient.
 * @param teacher logits [n, vocabSize] @param student likewise @param ids of the window, n of them
 * @returns dLogits of the student, [n, vocabSize]
 */
export function tuningLoss(
  teacher: Float32Array,
  student: Float32Array,
  ids: Int32Array,
  languageWeight: number,
): WindowLoss & { readonly dLogits: Float32Array } {
  const n = ids.length;
  const size = student.length / n;
  const dLogits = new Float32Array(student.length);
  const [teacherP, studentP] = [new Float64Array(size), new Float64Array(size)];
  const sums = { kl: 0, student: 0, teacher: 0 };
  for (let i = 0; i < n; i++) {
    const [p, q] = [teacher, student].map((logits) => logits.subarray(i * size, (i + 1) * size));
    const [pSum, qSum] = [softmax(p, teacherP), softmax(q, studentP)];
    const d = dLogits.subarray(i * size, (i + 1) * size);
    const isScored = i + 1 < n;
    const weight = isScored ? languageWeight / (n - 1) : 0;
    let kl = 0;
    for (let c = 0; c < size; c++) {
      kl += teacherP[c] * (p[c] - q[c]);
      d[c] = (studentP[c] - teacherP[c]) / n + weight * studentP[c];
    }
    sums.kl += kl + qSum - pSum;
    if (!isScored) continue;
    d[ids[i + 1]] -= weight;
    sums.student += qSum - q[ids[i + 1]];
    sums.teacher += pSum - p[ids[i + 1]];
  }
  const scored = Math.max(1, n - 1);
  return {
    kl: sums.kl / n,
    student: sums.student / scored,
    teacher: sums.teacher / scored,
    dLogits,
  };
}

/** @param out the probabilities @returns ln of the sum of exponentials */
function softmax(logits: Float32Array, out: Float64Array): number {
  let max = -Infinity;
  for (let c = 0; c < logits.length; c++) if (logits[c] > max) max = logits[c];
  let sum = 0;
  for (let c = 0; c < logits.length; c++) sum += out[c] = Math.exp(logits[c] - max);
  for (let c = 0; c < logits.length; c++) out[c] /= sum;
  return max + Math.log(sum);
}
