// Package dp makes the noise and says what it is worth: keyed byte streams, exact discrete samplers, the scale that a
// sensitivity and an ε call for, bounds on tails, and the guarantee against each adversary.
//
// The samplers follow Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy" (NeurIPS 2020; CKS
// below), in integers only. No floating-point value ever decides a sample, because rounded samplers leak through their
// low bits (Mironov, "On Significance of the Least Significant Bits for Differential Privacy", CCS 2012).
//
// # Whose noise
//
// A key is split into pieces, and each piece brings one full, independent discrete Laplace sample of scale b = m·Δ/ε. A
// corrupt custodian knows every sample but one, and faces ε by that one alone. The operator faces the sum of all of them:
// ε again, and less at a small δ (OperatorEpsilon). The price is a variance of pieces times one sample's.
//
// # Same question, same noise
//
// Randomness is a Stream derived from a key and a context. Every holder of the key draws the same noise for the same
// question, today and after a restore, so asking again averages nothing out. How samples consume the stream is therefore
// part of the format: changing it would give old questions fresh noise. Stream, Laplace and Gaussian say which bytes they
// take, in terms of two coins, so that another implementation draws the same values; the tests hold them to a second one:
//
//   - A unit coin exp(−n/d), 0 ≤ n ≤ d, draws Below(d), Below(2d), Below(3d), … until one, the k-th, is not below n. It
//     succeeds if k is odd.
//   - A coin exp(−n/d), n > d, tosses unit coins exp(−1/1) for ⌈n/d⌉−1 times or until one fails, in which case it fails;
//     then a unit coin exp(−n'/d) decides, n' > 0 being n less d for each of those coins. Fractions are not reduced.
//
// # Integers decide, floats explain
//
// Whatever enters a plan or decides a release (Laplace, TailBound, SuppressionMargin, Budget) is integer arithmetic and
// the same on every machine. Results of type float64 are figures for people; they may differ in the last digit between
// architectures and must not enter bytes that are signed.
//
// # What it does not do
//
// The package has no randomness of its own; a stream is as secret as its key, and an empty key is refused. Samplers run in
// time that depends on the sample (about |x|/b steps), so a caller draws all noise of a release before it answers, and
// never lets an operator time single draws. It accounts by basic composition and keeps no ledger; the custodians do.
package dp
