// Package plan decides on which CPU of a host every virtual CPU runs: a model of the problem, its objective, and planners from
// least-loaded-first to simulated quantum annealing. It reads and sets nothing of a host; who measures loads and who applies plans is
// elsewhere.
//
// # The objective
//
// A placement gives vCPU i the CPU p(i). With l(i) its load, k(i) its cache pressure, c(p) a CPU's capacity, L(p) the sum of the loads
// on a CPU, K(g) the sum of the pressures in a last-level cache of n(g) CPUs, C(s) the mean capacity of a core's threads, and D the
// distance of two CPUs (0 the same, 1 core, 2 cache, 4 node, 8 package, 16 farther), the cost of a placement is
//
//	  Crowding  * sum over CPUs p               of L(p)^2/c(p)
//	+ SMT       * sum over cores s              of L(p)*L(q)/C(s) for its threads p < q
//	+ Cache     * sum over caches g             of K(g)^2/n(g)
//	+ Link      * sum over links i, j           of rate*D(p(i),p(j))
//	+             sum over links i, j apart     of alternate * what the two would cost on one CPU of capacity 1, by Crowding and Latency
//	+ Gang      * sum over i < j on one CPU p   of l(i)*l(j)/c(p), of one gang: whoever spins may spin for one who cannot run
//	+ Mixed     * sum over i < j on one CPU p   of l(i)*l(j)/c(p), not of one gang, once for each of the two that is in a gang
//	+ Latency   * sum over i that wake briefly  of (L(p(i))-l(i))/c(p(i))
//	+ Migration * sum over i that run somewhere of D(now(i),p(i))
//	+ Core      * cores in use + Package * packages in use
//
// All terms but the last line's are sums over pairs of vCPUs: Model gives them as a QUBO. Power, the last line, is not quadratic, and
// Model leaves it out.
//
// So two that wait for each other are as well off on one CPU as apart, and better by what their messages cost.
//
// A unit of cost is half a CPU lost: two vCPUs of load 1 that share a CPU lose one CPU, and cost 2 more than apart. DefaultWeights says
// what the others are in this unit.
//
// Never broken, and no part of the cost: pins, pairs that must be Apart, and, with Separate, tenants that share no core.
package plan
