/* A front that spreads, such as that of a population: u_t = D u_xx + r u (1 - u).

   mpicc -O2 -shared -fPIC -o libfront.so front.c

   Finite differences in space, Euler's method in time. Each rank has some of the points, and
   exchanges those at its edges with its neighbours. */

#include <mpi.h>
#include <stdlib.h>
#include <string.h>

enum { POINTS = 600 };
static const double LENGTH = 150, START = 20, TIME = 40;

/* Which MPI this was built for. */
void mpi_library(char *version) {
  int length;
  MPI_Get_library_version(version, &length);
}

/* Set the two points beyond the edges: neighbours' points, or those at the walls. */
static void exchange(MPI_Comm comm, int rank, int ranks, double *u, int points) {
  int left = rank > 0 ? rank - 1 : MPI_PROC_NULL;
  int right = rank < ranks - 1 ? rank + 1 : MPI_PROC_NULL;
  u[0] = u[1];
  u[points + 1] = u[points];
  MPI_Sendrecv(&u[1], 1, MPI_DOUBLE, left, 0, &u[points + 1], 1, MPI_DOUBLE, right, 0, comm,
               MPI_STATUS_IGNORE);
  MPI_Sendrecv(&u[points], 1, MPI_DOUBLE, right, 0, &u[0], 1, MPI_DOUBLE, left, 0, comm,
               MPI_STATUS_IGNORE);
}

/* How far the front has come: the integral of u. */
static double position(MPI_Comm comm, const double *u, int points, double dx) {
  double mine = 0, all;
  for (int i = 1; i <= points; i++)
    mine += u[i] * dx;
  MPI_Allreduce(&mine, &all, 1, MPI_DOUBLE, MPI_SUM, comm);
  return all;
}

/* Compute the speed of the front, together with the other ranks of a communicator.

   handle: what comm.py2f() of mpi4py gives. Returns the same on all ranks, or -1 if there is no
   memory for the points. */
double front_speed(MPI_Fint handle, double growth, double diffusion) {
  MPI_Comm comm = MPI_Comm_f2c(handle);
  int rank, ranks;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &ranks);
  int first = POINTS * rank / ranks, points = POINTS * (rank + 1) / ranks - first;

  double *u = calloc(points + 2, sizeof *u), *next = calloc(points + 2, sizeof *next);
  int failed = !u || !next;
  MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_LOR, comm);
  if (failed) {
    free(u);
    free(next);
    return -1;
  }

  double dx = LENGTH / POINTS, dt = 0.4 * dx * dx / diffusion, middle = 0;
  int steps = (int)(TIME / dt);
  for (int i = 1; i <= points; i++)
    u[i] = (first + i) * dx < START;
  for (int step = 0; step < steps; step++) {
    if (step == steps / 2)
      middle = position(comm, u, points, dx);
    exchange(comm, rank, ranks, u, points);
    for (int i = 1; i <= points; i++)
      next[i] = u[i] + dt * (diffusion / (dx * dx) * (u[i - 1] - 2 * u[i] + u[i + 1]) +
                             growth * u[i] * (1 - u[i]));
    memcpy(&u[1], &next[1], points * sizeof *u);
  }
  double end = position(comm, u, points, dx);
  free(u);
  free(next);
  return (end - middle) / ((steps - steps / 2) * dt);
}
